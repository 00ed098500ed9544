/** Stores for the ledger conformance suite: SQLite files in temporary folders. */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { Ledger } from '../../src/contracts/ledger.ts'
import { sqlite } from '../../src/drivers/sqlite/index.ts'
import type { SqliteLedgerOptions } from '../../src/drivers/sqlite/ledger.ts'
import type { LedgerHarness } from '../../src/testing/ledger-conformance.ts'

const schema = `
  create table if not exists item (id text primary key not null, n integer not null, note text);
  create table if not exists pair (a text not null, b integer not null, n integer not null, primary key (a, b));`

/** `open` is the one to test; the thread it runs on is its own affair. */
export function sqliteLedgers(open: (options: SqliteLedgerOptions) => Promise<Ledger>, thread: 'main' | 'worker'): LedgerHarness {
  return {
    async create() {
      const dataDir = mkdtempSync(join(tmpdir(), 'headrace-ledger-'))
      const databases = [sqlite('left', { schema }), sqlite('right', { schema })]
      return {
        open: ({ partitions = 8, outcomeRetentionMs = 86_400_000, outcomesMax = 100_000 } = {}) =>
          open({
            app: 'conformance',
            dataDir,
            partitions,
            databases,
            outcomeRetentionMs,
            outcomesMax,
            thread,
            lanes: 1,
            databaseWaitMs: 0,
            statementTimeoutMs: 5_000,
          }),
        remove: async () => rmSync(dataDir, { recursive: true, force: true }),
      }
    },
  }
}
