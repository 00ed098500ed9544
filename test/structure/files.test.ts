import { existsSync } from 'node:fs'
import path from 'node:path'
import { describe, expect, test } from 'vitest'
import { filesOf, packageJson, root, sources } from './tree.ts'

const linesMax = 400

/** Files that may be longer, each with its reason beside it. */
const longFiles: readonly string[] = [
  // A conformance suite is the list of all promises of one contract, each a test of a few lines.
  'src/testing/ledger-conformance.ts',
  'src/testing/lock-conformance.ts',
  'src/testing/participant-conformance.ts',
  'src/testing/queue-conformance.ts',
  // All calls of one participant: the lines over the limit are their promises, and cutting the class would part them from what they share.
  'src/drivers/mysql/verbs.ts',
  'src/drivers/postgres/participant.ts',
]

describe('a file', () => {
  test(`of the source fits in a head: at most ${linesMax} lines`, () => {
    const long = sources()
      .map(({ name, text }) => ({ name, lines: text.split('\n').length - 1 }))
      .filter(({ name, lines }) => lines > linesMax && !longFiles.includes(name))
    expect(long.map(({ name, lines }) => `${name}: ${lines} lines`)).toEqual([])
  })

  test('of the source opens with what it is for', () => {
    const silent = sources().filter(({ text }) => !text.replace(/^#!.*\n/, '').startsWith('/**'))
    expect(silent.map(({ name }) => name)).toEqual([])
  })

  test('is named after its subject, not utils, helpers, common or manager', () => {
    const vague = ['src', 'examples', 'bench', 'test', 'scripts']
      .flatMap(filesOf)
      .filter(({ name }) => /(?:^|[/.-])(?:utils?|helpers?|common|misc|managers?)(?=[/.-])/.test(name) && !name.includes('/node_modules/'))
    expect(vague.map(({ name }) => name)).toEqual([])
  })
})

describe('an entry of the package', () => {
  const entries = Object.values(packageJson.exports).flatMap((target) => (typeof target === 'string' ? [] : [target.default]))

  test('has its source', () => {
    const missing = entries.filter((entry) => !existsSync(path.join(root, entry.replace('./dist/', 'src/').replace(/\.js$/, '.ts'))))
    expect(missing).toEqual([])
  })

  test('is what an index.ts is for: every index.ts is one', () => {
    const indexes = sources()
      .filter(({ name }) => path.basename(name) === 'index.ts')
      .map(({ name }) => `./${name.replace('src/', 'dist/').replace(/\.ts$/, '.js')}`)
    expect(indexes.filter((each) => !entries.includes(each))).toEqual([])
  })
})
