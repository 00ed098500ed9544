/**
 * The journal of an app as the home of its transactions: where it is decided
 * what becomes of a batch that reached databases on servers.
 *
 * Looking at it is read-only, and goes on beside a node. To decide or to forget,
 * the data directory is taken over as by a start of the node, so that no two
 * ever write to it.
 */
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import type { DatabaseSyncInstance } from '@photostructure/sqlite'
import type { DatabaseHandle } from '../../contracts/database.ts'
import { HeadraceError } from '../../contracts/errors.ts'
import type { Decision, DecisionLog } from '../../contracts/participant.ts'
import type { App } from '../../pipeline/app-contract.ts'
import { deploymentOf } from '../../pipeline/take-over.ts'
import { CliError, exitCodes } from '../exit.ts'

export interface JournalHome {
  /** What the gids of its transactions begin with. */
  readonly deployment: string
  readonly log: DecisionLog
  close(): Promise<void>
}

interface DecisionRow {
  readonly gid: string
  readonly verdict: Decision['verdict']
  readonly participants: string
  readonly decided_at: number
}

/** Null when there is no journal in the directory, or one of a version before there were decisions. */
export async function readJournal(dataDir: string): Promise<JournalHome | null> {
  const file = join(dataDir, 'journal.sqlite')
  if (!existsSync(file)) return null
  const { DatabaseSync } = await import('@photostructure/sqlite')
  const database: DatabaseSyncInstance = new DatabaseSync(file, { readOnly: true })
  const rows = (where: string, ...values: readonly (string | number)[]): Decision[] =>
    (
      database.prepare(`select gid, verdict, participants, decided_at from decision ${where}`).all(...values) as unknown as DecisionRow[]
    ).map(({ gid, verdict, participants, decided_at: decidedAt }) => ({
      gid,
      verdict,
      participants: JSON.parse(participants) as string[],
      decidedAt,
    }))
  try {
    if (database.prepare("select 1 from sqlite_master where name = 'decision'").get() === undefined) {
      database.close()
      return null
    }
    const { value } = database.prepare("select value from meta where name = 'deployment'").get() as { value: string }
    return {
      deployment: deploymentOf(value),
      log: {
        name: 'journal',
        decision: async (gid) => rows('where gid = ?', gid)[0] ?? null,
        decisions: async (prefix, limit) =>
          rows('where substr(gid, 1, ?) = ? order by decided_at, gid limit ?', prefix.length, prefix, limit),
        decideAbort: readOnly,
        forget: readOnly,
      },
      close: async () => database.close(),
    }
  } catch (error) {
    database.close()
    throw new CliError(exitCodes.unavailable, 'data-unreadable', `${file} cannot be read: ${(error as Error).message}.`)
  }
}

/** Owns the data directory until it is closed. Throws 'node-runs' while a node does. */
export async function ownJournal(app: App, files: readonly DatabaseHandle[], dataDir: string): Promise<JournalHome> {
  const { openSqliteLedger } = await import('../../drivers/sqlite/ledger.ts')
  try {
    const ledger = await openSqliteLedger({ ...app.options, app: app.name, dataDir, databases: files })
    return { deployment: deploymentOf(ledger.identity), log: ledger.decisions, close: () => ledger.close() }
  } catch (error) {
    if (!HeadraceError.is(error) || error.code !== 'data-in-use') throw error
    throw new CliError(
      exitCodes.failed,
      'node-runs',
      `A node runs on ${dataDir}, and ends by itself what its journal has decided.`,
      'What ended by hand can be forgotten while it is stopped: stop it, resolve, start it again.',
    )
  }
}

function readOnly(): Promise<never> {
  return Promise.reject(new HeadraceError('internal', 'The journal was opened to read.'))
}
