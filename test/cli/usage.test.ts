import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, describe, expect, it } from 'vitest'
import { headrace, onlyDocument, temporaryFolder } from './headrace.ts'

const folder = temporaryFolder()
afterAll(() => folder.drop())

const commands = [
  ['start'],
  ['demo', 'flash-sale'],
  ['load'],
  ['dlq', 'ls'],
  ['dlq', 'show'],
  ['dlq', 'redrive'],
  ['dlq', 'drop'],
  ['outcomes', 'get'],
  ['doctor'],
  ['migrate'],
  ['tx', 'ls'],
  ['tx', 'show'],
  ['tx', 'resolve'],
  ['tx', 'stats'],
  ['lock', 'ls'],
  ['lock', 'show'],
  ['lock', 'break'],
  ['queue', 'ls'],
  ['queue', 'peek'],
  ['queue', 'pause'],
  ['queue', 'resume'],
  ['queue', 'purge'],
  ['queue', 'redrive'],
]

describe('the command line', () => {
  it('tells what it can do, with examples and exit codes, on standard output', async () => {
    const { code, stdout, stderr } = await headrace(['--help'])
    expect(code).toBe(0)
    expect(stderr).toBe('')
    for (const words of [
      'start',
      'demo',
      'load',
      'dlq',
      'outcomes',
      'doctor',
      'migrate',
      'tx',
      'lock',
      'queue',
      'version',
      'Examples:',
      'Exit codes:',
    ])
      expect(stdout).toContain(words)
  })

  it.each(commands)('teaches %s %s with exit codes', async (...words) => {
    const { code, stdout } = await headrace([...words.filter((word) => word !== undefined), '--help'])
    expect(code).toBe(0)
    expect(stdout).toContain('Usage: headrace')
    expect(stdout).toContain('Exit codes:')
    expect(stdout).toContain('--json')
  })

  it('has a flag for every limit of the app and the server', async () => {
    const { stdout } = await headrace(['start', '--help'])
    for (const flag of ['--batch-commands-max', '--partitions', '--stop-timeout-ms', '--body-bytes-max', '--connections-max'])
      expect(stdout).toContain(flag)
  })

  it.each([
    [['strat'], 'start'],
    [['start', 'app.ts', '--prot', '1'], '--port'],
    [['dlq', 'lst'], 'ls'],
    [['tx', 'sow'], 'show'],
    [['lock', 'brake'], 'break'],
    [['queue', 'redrvie'], 'redrive'],
    [['load', 'x', '--conections', '1'], '--connections'],
    [['start', 'app.ts', '--batch-command-max', '1'], '--batch-commands-max'],
  ])('proposes the nearest for %j, with exit code 2', async (args, proposal) => {
    const { code, stdout, stderr } = await headrace(args)
    expect(code).toBe(2)
    expect(stdout).toBe('')
    expect(stderr).toContain(`Did you mean ${proposal}?`)
    expect(stderr).toContain('--help')
  })

  it.each([
    [[]],
    [['dlq']],
    [['start']],
    [['outcomes', 'get', 'x']],
    [['start', 'a.ts', '--port', 'x']],
    [['load', 'x', '--repeat', '2', '--input', '{}']],
    [['load', 'x']],
    [['dlq', 'show', 'abc']],
  ])('ends with 2 for %j', async (args) => {
    expect((await headrace(args)).code).toBe(2)
  })

  it('gives errors as JSON with --json', async () => {
    const ended = await headrace(['start', 'nowhere.ts', '--json'])
    expect(ended.code).toBe(2)
    expect(onlyDocument(ended)).toMatchObject({ error: { code: 'file-missing', message: expect.stringContaining('nowhere.ts') as string } })
    const unknown = await headrace(['load', '--json', '--nope'])
    expect(onlyDocument(unknown)).toMatchObject({ error: { code: 'usage' } })
  })

  it('writes no colours where nobody sees them', async () => {
    const { stdout, stderr } = await headrace(['doctor', '--data', folder.path])
    expect(stdout + stderr).not.toContain('\u001b[')
  })

  it('tells its versions', async () => {
    const found = onlyDocument(await headrace(['version', '--json']))
    expect(found).toMatchObject({
      headrace: expect.stringMatching(/^\d+\.\d+\.\d+/) as string,
      node: process.versions.node,
      sqlite: expect.stringMatching(/^3\./) as string,
    })
    expect((await headrace(['--version'])).stdout.trim()).toBe(found['headrace'])
  })
})

describe('headrace doctor', () => {
  it('says ok with 0, and names what is wrong with 1', async () => {
    const good = await headrace(['doctor', '--data', folder.path, '--json'])
    expect(good.code).toBe(0)
    expect(onlyDocument<{ ok: boolean; findings: { check: string }[] }>(good).findings.map(({ check }) => check)).toEqual(
      expect.arrayContaining(['node', 'sqlite', 'fsync', 'open-files', 'clock', 'space', 'file-system', 'owner', 'journal']),
    )

    writeFileSync(join(folder.path, 'journal.sqlite'), 'x'.repeat(8192))
    const bad = await headrace(['doctor', '--data', folder.path, '--json'])
    expect(bad.code).toBe(1)
    const { ok, findings } = onlyDocument<{ ok: boolean; findings: { check: string; level: string }[] }>(bad)
    expect(ok).toBe(false)
    expect(findings.find(({ check }) => check === 'journal')).toMatchObject({ level: 'error' })
  })
})
