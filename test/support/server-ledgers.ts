/** Stores for the ledger conformance suite over databases on servers: 'left' in PostgreSQL, 'right' in MariaDB, each new for each store. */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createConnection } from 'mysql2/promise'
import pg from 'pg'
import type { Ledger, LedgerOptions } from '../../src/contracts/ledger.ts'
import type { ParticipantHandle } from '../../src/contracts/participant.ts'
import { mysql } from '../../src/drivers/mysql/index.ts'
import { postgres } from '../../src/drivers/postgres/index.ts'
import type { LedgerHarness } from '../../src/testing/ledger-conformance.ts'
import type { Server } from '../../src/testing/servers/index.ts'

const schema = `
  create table if not exists item (id varchar(200) primary key not null, n bigint not null, note text);
  create table if not exists pair (a varchar(200) not null, b bigint not null, n bigint not null, primary key (a, b));`

let number = 0

/** New databases with Headrace's tables and those of the suites, by the names 'left' and 'right'. */
export async function newDatabases(servers: { readonly postgres: Server; readonly mariadb: Server }): Promise<ParticipantHandle[]> {
  const name = `ledger_${process.pid}_${number++}`
  const postgresClient = new pg.Client({ connectionString: servers.postgres.url })
  await postgresClient.connect()
  await postgresClient.query(`create database ${name}`)
  await postgresClient.end()
  const mysqlClient = await createConnection(servers.mariadb.url)
  await mysqlClient.query(`create database ${name} character set utf8mb4`)
  await mysqlClient.end()
  const databases = [
    postgres('left', { url: servers.postgres.url.replace(/[^/]+$/, name), schema }),
    mysql('right', { url: servers.mariadb.url.replace(/[^/]+$/, name), schema }),
  ]
  for (const handle of databases) {
    const participant = await handle.connect()
    await participant.migrate()
    await participant.close()
  }
  return databases
}

export function serverLedgers(
  open: (options: LedgerOptions) => Promise<Ledger>,
  servers: () => { readonly postgres: Server; readonly mariadb: Server },
): LedgerHarness {
  return {
    takesTurns: false,
    async create() {
      const dataDir = mkdtempSync(join(tmpdir(), 'headrace-ledger-'))
      const databases = await newDatabases(servers())
      return {
        open: ({ partitions = 8, outcomeRetentionMs = 86_400_000, outcomesMax = 100_000 } = {}) =>
          open({
            app: 'conformance',
            dataDir,
            partitions,
            databases,
            outcomeRetentionMs,
            outcomesMax,
            lanes: 4,
            databaseWaitMs: 10_000,
            statementTimeoutMs: 5_000,
          }),
        remove: async () => rmSync(dataDir, { recursive: true, force: true }),
      }
    },
  }
}
