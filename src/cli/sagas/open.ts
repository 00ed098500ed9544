/** Opens the log of sagas that the command line names. Looking at it makes nothing: no file, no table. */
import { HeadraceError } from '../../contracts/errors.ts'
import { recordTable, runTable } from '../../contracts/saga.ts'
import { participantSagaLog, type SagaLog } from '../../transaction/index.ts'
import { CliError, exitCodes } from '../exit.ts'
import { givenDatabases } from '../participants.ts'
import { requireTable } from '../sqlite-file.ts'

export interface SagaFlags {
  readonly url?: string
}

/** Runs with the log, and closes it. */
export async function withLog(flags: SagaFlags, run: (log: SagaLog) => Promise<number>): Promise<number> {
  const { log, close } = await open(flags)
  try {
    return await run(log)
  } catch (error) {
    if (!HeadraceError.is(error) || !isMissingTable(error.message)) throw error
    throw new CliError(
      exitCodes.failed,
      'sagas-missing',
      'This database has no log of sagas.',
      'Its tables are made by postgresSagaSql or mysqlSagaSql (docs/saga.md). Another database, perhaps, or another schema?',
    )
  } finally {
    await close()
  }
}

/** What an engine says when a table of the log is not there. */
function isMissingTable(message: string): boolean {
  return (message.includes(runTable) || message.includes(recordTable)) && /does not exist|doesn't exist/.test(message)
}

async function open({ url }: SagaFlags): Promise<{ readonly log: SagaLog; close(): Promise<void> }> {
  if (url === undefined)
    throw new CliError(
      exitCodes.usage,
      'usage',
      'Where is the log of the sagas?',
      'Give --url postgres://…, --url mysql://…, or --url sagas.sqlite.',
    )
  const scheme = /^([a-z][a-z0-9+.-]*):\/\//i.exec(url)?.[1]?.toLowerCase()
  if (scheme === undefined || scheme === 'file') return openFile(scheme === undefined ? url : new URL(url).pathname)
  if (!['postgres', 'postgresql', 'mysql', 'mariadb'].includes(scheme))
    throw new CliError(
      exitCodes.usage,
      'usage',
      `There is no log of sagas on ${scheme}://.`,
      'It is in PostgreSQL, in MySQL or MariaDB, or in a SQLite file.',
    )
  const { participants } = await givenDatabases(undefined, [`sagas=${url}`])
  const [handle] = participants
  if (handle === undefined) throw new HeadraceError('internal', 'The log of the sagas is no participant.')
  const participant = await handle.connect({ branchesMax: 2 })
  const log = participantSagaLog(participant)
  return {
    log,
    async close() {
      await log.close()
      await participant.close()
    },
  }
}

async function openFile(file: string): Promise<{ readonly log: SagaLog; close(): Promise<void> }> {
  await requireTable(file, runTable, 'sagas', 'sqliteSagaLog({ file })')
  const { sqliteSagaLog } = await import('../../drivers/sqlite/index.ts')
  const log = sqliteSagaLog({ file })
  return { log, close: () => log.close() }
}
