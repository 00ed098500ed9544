/** The ledger with databases on servers keeps every promise of a ledger, on a real PostgreSQL and a real MariaDB. */
import { afterAll, beforeAll, describe, it } from 'vitest'
import { openSqliteLedger } from '../../src/drivers/sqlite/ledger.ts'
import { openGlobalLedger } from '../../src/pipeline/global-ledger.ts'
import { ledgerConformance } from '../../src/testing/ledger-conformance.ts'
import { type Server, serverMissing, startMariadb, startPostgres } from '../../src/testing/servers/index.ts'
import { serverLedgers } from '../support/server-ledgers.ts'

const missing = serverMissing('postgres') ?? serverMissing('mariadb')

describe.skipIf(missing !== null)(`over servers${missing === null ? '' : ` (${missing})`}`, () => {
  let servers: { readonly postgres: Server; readonly mariadb: Server }
  beforeAll(async () => {
    const [postgres, mariadb] = await Promise.all([startPostgres(), startMariadb()])
    servers = { postgres, mariadb }
  })
  afterAll(async () => {
    await Promise.all([servers.postgres.stop(), servers.mariadb.stop()])
  })
  ledgerConformance(
    { describe, it },
    'PostgreSQL and MariaDB',
    serverLedgers(
      (options) => openGlobalLedger(options, openSqliteLedger),
      () => servers,
    ),
  )
})
