import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, describe, expect, it } from 'vitest'
import { inboxSchema, outboxSchema } from '../../queue/index.ts'
import { inboxConformance } from '../../testing/inbox-conformance.ts'
import { sqliteQueue } from './queue.ts'
import { type SqliteTransactions, sqliteTransactions } from './queue-transact.ts'

const directory = mkdtempSync(join(tmpdir(), 'headrace-test-inbox-'))
const file = join(directory, 'data.sqlite')
const schema = `create table if not exists ledger (id text primary key not null, n integer not null) strict; ${inboxSchema.sqlite} ${outboxSchema.sqlite}`
const opened: SqliteTransactions[] = []
const open = (): SqliteTransactions => {
  const transactions = sqliteTransactions({ file, schema })
  opened.push(transactions)
  return transactions
}
afterAll(() => {
  for (const each of opened) each.close()
  rmSync(directory, { recursive: true })
})

inboxConformance({ describe, it }, 'sqlite', {
  engine: 'sqlite',
  concurrent: false,
  transact: () => open().transact,
  queue: async () => sqliteQueue({ file: join(directory, 'queue.sqlite') }),
})

describe('transactions on a SQLite file', () => {
  it('roll back when a statement failed whose error was caught, and take no calls afterwards', async () => {
    const { transact } = open()
    let kept: Parameters<Parameters<typeof transact>[0]>[0] | null = null
    await expect(
      transact(async (database) => {
        kept = database
        await database.insertMany('ledger', [{ id: 'caught', n: 1 }])
        await database.insertMany('nowhere', [{ id: 1 }]).catch(() => {})
      }),
    ).rejects.toMatchObject({ code: 'sql-failed' })
    expect(await transact((database) => database.selectIn('ledger', 'id', ['caught']))).toEqual([])
    await expect((kept as never as { sql: (text: readonly string[]) => Promise<unknown> }).sql`select 1`).rejects.toMatchObject({
      code: 'transaction-closed',
    })
  })
})
