/** Looks into a SQLite file before an engine opens it, which would make the file and its tables. */
import { existsSync } from 'node:fs'
import { CliError, exitCodes } from './exit.ts'

/** Throws 'file-missing' when there is no such file with such a table in it. `what` is kept there by `maker`. */
export async function requireTable(file: string, name: string, what: string, maker: string): Promise<void> {
  const missing = new CliError(
    exitCodes.usage,
    'file-missing',
    `There is no file of ${what} ${file}.`,
    `Give the file that ${maker} was given.`,
  )
  if (!existsSync(file)) throw missing
  const { DatabaseSync } = await import('@photostructure/sqlite')
  const database = new DatabaseSync(file, { readOnly: true })
  try {
    if (database.prepare('select 1 from sqlite_master where name = ?').get(name) === undefined) throw missing
  } catch (error) {
    if (error === missing) throw error
    throw new CliError(exitCodes.usage, 'file-failed', `${file} cannot be read: ${(error as Error).message}.`)
  } finally {
    database.close()
  }
}
