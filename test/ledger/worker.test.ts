/** The ledger as it runs for users: the built package, with the engine on a thread of its own. */
import { describe, it } from 'vitest'
import { ledgerConformance } from '../../src/testing/ledger-conformance.ts'
import { sqliteLedgers } from '../support/sqlite-ledgers.ts'

const built = new URL('../../dist/drivers/sqlite/ledger.js', import.meta.url)
const { openSqliteLedger } = (await import(/* @vite-ignore */ built.href)) as typeof import('../../src/drivers/sqlite/ledger.ts')

ledgerConformance({ describe, it }, 'sqlite, on a worker thread', sqliteLedgers(openSqliteLedger, 'worker'))
