/** The closing line of a test run, tried on runs of a small suite. */
import { spawnSync } from 'node:child_process'
import { mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { tmpdir } from 'node:os'
import { fileURLToPath } from 'node:url'
import { afterEach, beforeEach, expect, test } from 'vitest'

const root = fileURLToPath(new URL('..', import.meta.url))
let folder: string

beforeEach(() => {
  folder = mkdtempSync(path.join(tmpdir(), 'headrace-summary-'))
  symlinkSync(path.join(root, 'node_modules'), path.join(folder, 'node_modules'))
})
afterEach(() => rmSync(folder, { recursive: true, force: true }))

/** Runs a suite of these files; returns the last line and the exit code. */
function closing(files: Readonly<Record<string, string>>): { readonly line: string | undefined; readonly failed: boolean } {
  for (const [name, body] of Object.entries(files)) {
    writeFileSync(path.join(folder, `${name}.test.js`), `import { beforeAll, describe, test } from 'vitest'\n${body}`)
  }
  const args = ['node_modules/vitest/vitest.mjs', 'run', '--root', folder, '--reporter', path.join(root, 'scripts/summary-reporter.mjs')]
  const { status, stdout } = spawnSync(process.execPath, args, { cwd: root, encoding: 'utf8', env: { ...process.env, VITEST: '', CI: '' } })
  return { line: stdout.trimEnd().split('\n').pop(), failed: status !== 0 }
}

const pass = "test('passes', () => {})"
const fail = "test('fails', () => { throw new Error('as told') })"

test('a run that passes says so', () => {
  expect(closing({ a: `${pass}; test.skip('waits', () => {})`, b: pass })).toEqual({ line: '2 passed, 0 failed, 1 skipped', failed: false })
})

test('a test that fails is counted', () => {
  expect(closing({ a: `${pass}; ${fail}; ${fail}` })).toEqual({ line: '1 passed, 2 failed, 0 skipped', failed: true })
})

test('a file that cannot be loaded is counted as failed', () => {
  expect(closing({ a: `${pass}; ${fail}`, b: "import './absent.js'" })).toEqual({ line: '1 passed, 2 failed, 0 skipped', failed: true })
})

test('a group whose preparation fails is counted as failed', () => {
  const { line, failed } = closing({ a: `describe('g', () => { beforeAll(() => { throw new Error('as told') }); ${pass} })` })
  expect(line).toMatch(/^0 passed, 1 failed/)
  expect(failed).toBe(true)
})

test('an error that belongs to no test is counted as failed', () => {
  expect(
    closing({
      a: "test('passes', () => { setTimeout(() => { throw new Error('late') }, 0); return new Promise((r) => setTimeout(r, 20)) })",
    }),
  ).toEqual({
    line: '1 passed, 1 failed, 0 skipped',
    failed: true,
  })
})
