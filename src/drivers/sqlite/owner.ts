/**
 * One process owns a data directory.
 *
 * The owner holds an exclusive lock on `owner.lock` through SQLite, so the
 * kernel releases it the moment the process is gone, however it went: the next
 * process takes over at once, and no lease has to run out. `owner.json` beside
 * it only names the owner for the message to the one who is refused.
 */
import { readFileSync, writeFileSync } from 'node:fs'
import { hostname } from 'node:os'
import { join } from 'node:path'
import { DatabaseSync, type DatabaseSyncInstance } from '@photostructure/sqlite'
import { HeadraceError } from '../../contracts/errors.ts'
import { sqliteError } from './errors.ts'

export interface Owner {
  readonly pid: number
  readonly host: string
  readonly startedAt: string
}

export class OwnerLock {
  readonly #database: DatabaseSyncInstance

  /** Throws 'data-in-use' when another process, or another app of this one, owns the directory. */
  constructor(dataDir: string) {
    let database: DatabaseSyncInstance
    try {
      database = new DatabaseSync(join(dataDir, 'owner.lock'))
    } catch (error) {
      throw sqliteError('owner.lock', error)
    }
    try {
      database.exec('pragma busy_timeout = 0')
      database.exec('pragma journal_mode = memory')
      database.exec('begin exclusive')
    } catch (error) {
      database.close()
      const known = sqliteError('owner.lock', error)
      if (known.code !== 'sql-busy') throw known
      const owner = ownerOf(dataDir)
      const who = owner === null ? 'another process' : `process ${owner.pid} on ${owner.host}, since ${owner.startedAt}`
      throw new HeadraceError(
        'data-in-use',
        `The data directory ${dataDir} is in use by ${who}. Stop it, or start with another data directory.`,
        { details: { dataDir, owner } },
      )
    }
    const owner: Owner = { pid: process.pid, host: hostname(), startedAt: new Date().toISOString() }
    try {
      writeFileSync(join(dataDir, 'owner.json'), `${JSON.stringify(owner)}\n`)
    } catch {
      // Only a name in a message: what cannot be written here says so where it matters.
    }
    this.#database = database
  }

  release(): void {
    this.#database.exec('rollback')
    this.#database.close()
  }
}

/** Who last owned the directory, or null when nothing readable says so. */
export function ownerOf(dataDir: string): Owner | null {
  try {
    return JSON.parse(readFileSync(join(dataDir, 'owner.json'), 'utf8')) as Owner
  } catch {
    return null
  }
}
