/** `sqlite(name, …)`: a SQLite file by name, for an app or a coordinator. It is opened when it is asked to. */
import { resolve } from 'node:path'
import { checkNames, checkWhole } from '../../contracts/bounds.ts'
import { HeadraceError } from '../../contracts/errors.ts'
import type { ConnectOptions, Participant, ParticipantHandle } from '../../contracts/participant.ts'
import { SqliteParticipant } from './global-participant.ts'

export interface SqliteOptions {
  /** Path of the file. Default: `<name>.sqlite` in the data directory of the app; a coordinator has none, and needs it. */
  readonly file?: string
  /**
   * SQL that makes the tables, run at every start: write it so that a second
   * run changes nothing (`create table if not exists …`). Every table of an app
   * needs a primary key.
   */
  readonly schema?: string
}

const namePattern = /^[a-z][a-z0-9_-]{0,31}$/

/**
 * Names a SQLite database for an app or for `createCoordinator`; the file is
 * opened when that starts. One file is for one of the two: an app decides in
 * its journal, a coordinator in the file. Throws 'option-invalid' and
 * 'option-unknown'.
 */
export function sqlite<const Name extends string>(name: Name, options: SqliteOptions = {}): ParticipantHandle<Name> {
  if (!namePattern.test(name) || name === 'journal') {
    throw new HeadraceError(
      'option-invalid',
      `The database name ${JSON.stringify(name)} is not valid: use 1 to 32 lower-case letters, digits, dashes or underscores, and not 'journal'.`,
    )
  }
  checkNames(`SQLite '${name}'`, options, ['file', 'schema'])
  for (const [option, value] of Object.entries(options)) {
    if (value !== undefined && (typeof value !== 'string' || value === ''))
      throw new HeadraceError('option-invalid', `The option '${option}' of SQLite '${name}' must be a text.`)
  }
  const { file, schema } = options
  return Object.freeze({
    kind: 'database',
    name,
    engine: 'sqlite',
    embedded: true,
    options: Object.freeze({ ...options }),
    async connect({ branchesMax }: ConnectOptions = {}): Promise<Participant> {
      // One branch at a time, however many are allowed.
      if (branchesMax !== undefined) checkWhole('branchesMax', branchesMax, 1, 10_000)
      if (file === undefined || file.startsWith(':memory:') || file.startsWith('file:') || file.includes('\0'))
        throw new HeadraceError(
          'option-invalid',
          `SQLite '${name}' needs the path of a file to take part in transactions: sqlite('${name}', { file: './${name}.sqlite' }).`,
          { details: { database: name, option: 'file' } },
        )
      const participant = new SqliteParticipant({ name, path: resolve(file), schema: schema ?? null })
      await participant.open()
      return participant
    },
  })
}
