import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { DatabaseSync } from '@photostructure/sqlite'
import { afterAll, describe, expect, it } from 'vitest'
import { fenceConformance, withTokens } from '../../testing/fence-conformance.ts'
import { sqliteFence, sqliteFenced, sqliteFenceSql } from './fence.ts'

const directory = mkdtempSync(join(tmpdir(), 'headrace-test-fence-'))
const database = new DatabaseSync(join(directory, 'data.sqlite'))
database.exec(`${sqliteFenceSql}; create table register (name text primary key, value integer not null)`)
afterAll(() => {
  database.close()
  rmSync(directory, { recursive: true })
})

const read = (name: string): number =>
  (database.prepare('select value from register where name = ?').get(name) as { value: number } | undefined)?.value ?? 0
const write = (name: string, value: number): void => {
  database.prepare('insert into register values (?, ?) on conflict (name) do update set value = excluded.value').run(name, value)
}

fenceConformance({ describe, it }, 'sqlite', {
  concurrent: false,
  // A transaction of this client cannot wait: what the suite does in it is done in one go.
  async fenced(lease, run) {
    database.exec('begin immediate')
    try {
      sqliteFence(database, lease)
      const result = await run({ read: async (name) => read(name), write: async (name, value) => write(name, value) })
      database.exec('commit')
      return result
    } catch (error) {
      database.exec('rollback')
      throw error
    }
  },
  read: async (name) => read(name),
  async withoutTable(run) {
    database.exec('alter table headrace_fence rename to hidden')
    await run()
    database.exec('alter table hidden rename to headrace_fence')
  },
  outside: async (lease) => sqliteFence(database, lease),
})

describe('sqliteFenced', () => {
  it('commits what runs under the guard, and rolls back what throws or is fenced', () => {
    sqliteFenced(database, withTokens(['a', 5]), () => write('a', 5))
    expect(() => sqliteFenced(database, withTokens(['a', 4]), () => write('a', 4))).toThrow(/too old/)
    expect(() =>
      sqliteFenced(database, withTokens(['a', 6]), () => {
        write('a', 6)
        throw new Error('no')
      }),
    ).toThrow('no')
    expect(read('a')).toBe(5)
  })

  it('refuses asynchronous work, which would run after the transaction', () => {
    expect(() => sqliteFenced(database, withTokens(['b', 1]), async () => write('b', 1))).toThrow(/must not be asynchronous/)
    expect(read('b')).toBe(0)
  })
})
