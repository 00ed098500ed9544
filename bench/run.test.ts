/** The command line of the benches, tried on a folder that has one small bench. */
import { spawnSync } from 'node:child_process'
import { copyFileSync, mkdirSync, mkdtempSync, readdirSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'

const root = fileURLToPath(new URL('..', import.meta.url))
let folder: string

beforeAll(() => {
  folder = mkdtempSync(path.join(tmpdir(), 'headrace-run-'))
  mkdirSync(path.join(folder, 'bench'))
  for (const file of ['run.ts', 'harness.ts', 'statistics.ts'])
    copyFileSync(path.join(root, 'bench', file), path.join(folder, 'bench', file))
  symlinkSync(path.join(root, 'node_modules'), path.join(folder, 'node_modules'))
  writeFileSync(path.join(folder, 'package.json'), '{"type":"module"}')
  writeFileSync(
    path.join(folder, 'bench/counting.bench.ts'),
    `import { bench, comparison } from './harness.ts'
    console.log('noise of the bench')
    export default bench('counting', {
      comparisons: [
        comparison({
          unit: 'rounds',
          contenders: { up: () => ({ run: async ({ index, quick }) => { process.stdout.write('more noise\\n'); return quick ? 7 : index + 1 } }) },
          figures: [{ name: 'counted', of: 'up', goal: { atLeast: 100 } }],
        }),
      ],
    })`,
  )
  writeFileSync(
    path.join(folder, 'bench/broken.bench.ts'),
    `import { bench, comparison } from './harness.ts'
    const fails = () => ({ run: async () => { throw new Error('no disk') } })
    export default bench('broken', { comparisons: [comparison({ unit: '', contenders: { fails }, figures: [] })] })`,
  )
})
afterAll(() => rmSync(folder, { recursive: true, force: true }))

function run(...args: string[]): { readonly status: number | null; readonly stdout: string; readonly stderr: string } {
  return spawnSync(process.execPath, ['--import', 'jiti/register', 'bench/run.ts', ...args], { cwd: folder, encoding: 'utf8' })
}

describe('npm run bench', () => {
  test('with --json prints one object on one line, whatever the bench prints', () => {
    const { status, stdout, stderr } = run('counting', '--json', '--rounds', '4')
    expect(status).toBe(0)
    expect(stdout.trimEnd().split('\n')).toHaveLength(1)
    const printed = JSON.parse(stdout) as Record<string, unknown>
    expect(Object.keys(printed)).toEqual(['bench', 'environment', 'figures'])
    expect(printed).toMatchObject({ bench: 'counting', environment: { node: process.version, quick: false } })
    expect(printed['figures']).toEqual([
      { name: 'counted', value: 2.5, unit: 'rounds', goal: 100, goalIs: 'at least', met: false, median: 2.5, min: 1, max: 4, rounds: 4 },
    ])
    expect(stderr).toContain('noise of the bench')
    expect(stderr).toContain('more noise')
  })

  test('without --json prints a table, with what was missed', () => {
    const { status, stdout } = run('counting')
    expect(status).toBe(0)
    expect(stdout).toMatch(/^counted\s+3\s+rounds\s+≥ 100\s+NO\s+3\s+1\s+5\s+5$/m)
  })

  test('with --quick runs one round and says that its figures mean nothing', () => {
    const { stdout } = run('counting', '--quick')
    expect(stdout).toMatch(/^counted\s+7\s.*\s1$/m)
    expect(stdout).toContain('mean nothing')
  })

  test('of an unknown name lists the known ones', () => {
    const { status, stdout, stderr } = run('embeded')
    expect({ status, stdout }).toEqual({ status: 2, stdout: '' })
    expect(stderr).toMatch(/There is no bench 'embeded'\.[\s\S]*NAME\s+broken, counting/)
  })

  test.each([[[]], [['counting', 'broken']], [['counting', '--rounds', '0']], [['counting', '--fast']]])('refuses %j', (args) => {
    expect(run(...args)).toMatchObject({ status: 2, stdout: '' })
  })

  test('of a bench that fails says why, exits with 1 and leaves no directory', () => {
    const { status, stdout, stderr } = run('broken', '--json')
    expect({ status, stdout }).toEqual({ status: 1, stdout: '' })
    expect(stderr).toContain('no disk')
    expect(readdirSync(path.join(folder, '.cache/bench'))).toEqual([])
  })
})
