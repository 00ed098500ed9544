import { readFileSync } from 'node:fs'
import path from 'node:path'
import { describe, expect, test } from 'vitest'
import { pages } from '../../scripts/reference.ts'
import { errorTable } from '../../src/contracts/errors.ts'
import { limitTable } from '../../src/pipeline/options.ts'
import { root, sources } from './tree.ts'

const read = (file: string): string => readFileSync(path.join(root, file), 'utf8')

describe('the pages that the code writes', () => {
  test.each(pages())('$file is up to date (npm run docs)', ({ file, text }) => {
    expect(read(file)).toBe(text)
  })

  test('name every error code, once', () => {
    const documented = [...read('docs/errors.md').matchAll(/^\| `([^`]+)` \|/gm)].map((match) => match[1])
    expect(documented).toEqual(Object.keys(errorTable))
  })

  test('name every option, once', () => {
    const documented = [...read('docs/options.md').matchAll(/^\| `([^`]+)` \|/gm)].map((match) => match[1])
    expect(documented).toEqual(Object.keys(limitTable))
  })
})

describe('the limits', () => {
  test('have bounds around their default', () => {
    const odd = Object.entries(limitTable).filter(([, { default: value, min, max }]) => !(min <= value && value <= max))
    expect(odd.map(([name]) => name)).toEqual([])
  })

  test('are each read somewhere', () => {
    const code = sources()
      .filter(({ name }) => name !== 'src/pipeline/options.ts')
      .map(({ text }) => text)
      .join('\n')
    const unread = Object.keys(limitTable).filter((name) => !new RegExp(`\\b${name}\\b`).test(code))
    expect(unread).toEqual([])
  })
})
