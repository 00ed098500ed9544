import { describe, it } from 'vitest'
import { sqliteLedgers } from '../../../test/support/sqlite-ledgers.ts'
import { ledgerConformance } from '../../testing/ledger-conformance.ts'
import { openSqliteLedger } from './ledger.ts'

ledgerConformance({ describe, it }, 'sqlite, on the main thread', sqliteLedgers(openSqliteLedger, 'main'))
