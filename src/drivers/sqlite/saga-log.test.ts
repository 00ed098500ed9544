import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { DatabaseSync } from '@photostructure/sqlite'
import { afterAll, describe, expect, it } from 'vitest'
import { sagaLogConformance } from '../../testing/saga-log-conformance.ts'
import { sqliteSagaLog } from './saga-log.ts'

const folder = mkdtempSync(join(tmpdir(), 'headrace-test-saga-'))
afterAll(() => rmSync(folder, { recursive: true, force: true }))

sagaLogConformance({ describe, it }, 'sqlite', { open: async () => sqliteSagaLog({ file: join(folder, 'sagas.sqlite') }) })

describe('a saga log in a SQLite file', () => {
  const run = { id: 'a', name: 'saga/a', gid: 'test_1', input: '{}', owner: 'me' }

  it('waits its turn while another process writes, and says so when that takes too long', async () => {
    const file = join(folder, 'busy.sqlite')
    const log = sqliteSagaLog({ file, timeoutMs: 50 })
    const other = new DatabaseSync(file)
    other.exec('begin immediate')
    await expect(log.start(run)).rejects.toMatchObject({ code: 'sql-busy' })
    const waiting = log.start(run)
    other.exec('commit')
    expect((await waiting).created).toBe(true)
    other.close()
    await log.close()
  })

  it('bounds the calls that wait, and refuses calls when it is closed', async () => {
    const log = sqliteSagaLog({ file: join(folder, 'bounds.sqlite'), callsMax: 1 })
    const first = log.start(run)
    await expect(log.start({ ...run, id: 'b' })).rejects.toMatchObject({ code: 'overloaded' })
    await first
    await log.close()
    await expect(log.start(run)).rejects.toMatchObject({ code: 'stopping' })
    await expect(log.read(['a'])).rejects.toMatchObject({ code: 'stopping' })
  })

  it('refuses what it is given wrongly', () => {
    expect(() => sqliteSagaLog({ file: '' })).toThrow('path')
    expect(() => sqliteSagaLog({ file: join(folder, 'no', 'such', 'folder') })).toThrow()
    expect(() => sqliteSagaLog({ file: join(folder, 'x.sqlite'), timeoutMs: 1 })).toThrow('timeoutMs')
  })
})
