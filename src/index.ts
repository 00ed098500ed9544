/** `headrace`: the write path. */
import { openSqliteLedger } from './drivers/sqlite/ledger.ts'
import { type AppDefinition, HeadraceApp } from './pipeline/app.ts'
import type { App } from './pipeline/app-contract.ts'
import { openGlobalLedger } from './pipeline/global-ledger.ts'

export type { Database, DatabaseHandle, InsertOptions, ReadDatabase, Row, SelectOptions, SqlValue } from './contracts/database.ts'
export type { ErrorCode, ErrorEntry } from './contracts/errors.ts'
export { errorTable, HeadraceError } from './contracts/errors.ts'
export type { BlockedKey, DeadLetter, LedgerCounts } from './contracts/ledger.ts'
export type { EventOptions, EventTopic } from './pipeline/event-relay.ts'
export type { AppDefinition } from './pipeline/app.ts'
export type { App, AppStatus, DeadLetterBox, Gateway, Outcome, OutcomeState, Receipt, SubmitOptions } from './pipeline/app-contract.ts'
export type {
  Accepted,
  AnyCommand,
  Applied,
  BatchHandlers,
  CodeOf,
  Command,
  CommandOptions,
  Databases,
  Decision,
  EmittedEvent,
  Handles,
  OnDeadLetter,
  Rejected,
  ResultOf,
  RunContext,
  RunHandler,
  Submitted,
} from './pipeline/command.ts'
export { accept, command, reject } from './pipeline/command.ts'
export type { AppOptions, LimitName, Limits } from './pipeline/options.ts'
export type { AnyQuery, Query, QueryDefinition } from './pipeline/query.ts'
export { query } from './pipeline/query.ts'

/**
 * Defines an app: commands and queries over databases. Nothing is opened until
 * `app.start()`.
 *
 * Options are checked here: 'option-unknown', 'option-invalid', 'app-invalid'.
 */
export function defineApp(definition: AppDefinition): App {
  return new HeadraceApp(definition, (options) => openGlobalLedger(options, openSqliteLedger))
}
