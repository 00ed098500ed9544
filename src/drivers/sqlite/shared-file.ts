/**
 * A SQLite file that a coordinator uses, with other processes if need be.
 *
 * One connection writes, one only reads. Whoever writes takes the turn of the
 * file in this process, then BEGIN IMMEDIATE, so that a transaction which has
 * begun never fails for another's sake. The lock of another process is waited
 * for by polling: the event loop goes on meanwhile.
 *
 * What must hold:
 * - every commit is on disk when it returns (WAL, synchronous=FULL);
 * - what is read was on disk before: a log that an earlier process left is
 *   brought into the file with fsync first, since a commit whose fsync failed
 *   may stand in it, and in no safe place;
 * - after a commit whose fsync failed nothing is written or answered here any
 *   more: the next process to open the file finds out what is true.
 */
import { mkdirSync, realpathSync } from 'node:fs'
import { dirname } from 'node:path'
import type { DatabaseSyncInstance } from '@photostructure/sqlite'
import { HeadraceError } from '../../contracts/errors.ts'
import { backoffMs, pause } from '../../std/backoff.ts'
import { sqliteError } from './errors.ts'
import { busy, givenUp, takeTurn, type TurnOptions } from './file-turn.ts'
import { openDatabase } from './open.ts'
import { OwnTables, ownTablesSql, ownTablesVersion, refuseJournals, versionOf } from './own-tables.ts'
import { Verbs } from './verbs.ts'

/** How long the thread itself waits for another process, in milliseconds; longer waits leave the event loop free. */
const busyMs = 2
/** First and longest pause between two tries to get the lock of another process, in milliseconds. */
const pollBaseMs = 1
const pollMaxMs = 20
/** The longest that opening waits for other processes, and a read for one that holds the whole file, in milliseconds. */
const openWaitMs = 2_000
/** Work in one turn of the event loop, in milliseconds; then others have theirs. */
const turnMsMax = 4
const cacheKiB = 16 * 1024

export interface SharedFileOptions {
  readonly name: string
  readonly path: string
  /** SQL that makes the tables of the user; run at every opening. */
  readonly schema: string | null
}

interface Connections {
  /** The real path. */
  readonly path: string
  readonly writer: DatabaseSyncInstance
  readonly reader: DatabaseSyncInstance
  readonly writes: Verbs
  readonly reads: Verbs
  /** Over the writer, and over the reader. */
  readonly own: OwnTables
  readonly seen: OwnTables
}

/** A transaction that has begun. */
export interface Writing extends Pick<Connections, 'writer' | 'writes' | 'own'> {
  /** Throws what COMMIT threw; then nothing of it is true, unless that is 'transaction-unknown'. */
  commit(gid: string): void
  /** Never throws. */
  rollback(): void
}

export class SharedFile {
  readonly name: string
  readonly #options: SharedFileOptions
  #connections: Promise<Connections> | null = null
  #failure: HeadraceError | null = null
  #closed = false
  #turnBegan = 0

  constructor(options: SharedFileOptions) {
    this.#options = options
    this.name = options.name
  }

  /** Opens the file and makes its tables, once; what fails is tried again by the next call. */
  open(): Promise<Connections> {
    if (this.#failure !== null) return Promise.reject(this.#failure)
    if (this.#closed)
      return Promise.reject(
        new HeadraceError('engine-unavailable', `SQLite '${this.name}' is closed here.`, { details: { database: this.name } }),
      )
    if (this.#connections === null) {
      const opening = this.#open()
      this.#connections = opening
      opening.catch(() => {
        if (this.#connections === opening) this.#connections = null
      })
    }
    return this.#connections
  }

  /** Sets the tables up again, as a first opening does. */
  async migrate(): Promise<void> {
    const { path, writer } = await this.open()
    await this.#setUp(path, writer)
  }

  /** Takes the turn and the lock. Throws 'sql-busy' when either takes longer than `waitMs`, and what the signal says. */
  async begin(options: Omit<TurnOptions, 'name'>): Promise<Writing> {
    const deadline = performance.now() + options.waitMs
    const { path, writer, writes, own } = await this.open()
    const end = await takeTurn(path, { ...options, name: this.name })
    try {
      await this.#poll(() => writer.exec('begin immediate'), deadline, options.signal)
      // It may have been closed, or given up, while the lock was waited for.
      await this.open()
    } catch (error) {
      this.#rollback(writer)
      end()
      throw error
    }
    return {
      writer,
      writes,
      own,
      commit: (gid) => {
        try {
          writer.exec('commit')
        } catch (error) {
          throw this.#refusedCommit(writer, gid, error)
        } finally {
          end()
        }
      },
      rollback: () => {
        this.#rollback(writer)
        end()
      },
    }
  }

  /** Runs `write` in a transaction of its own, on disk when it resolves. */
  async write<T>(gid: string, waitMs: number, write: (own: OwnTables) => T): Promise<T> {
    const writing = await this.begin({ gid: null, waitMs })
    let result: T
    try {
      result = write(writing.own)
    } catch (error) {
      writing.rollback()
      throw sqliteError(this.name, error)
    }
    writing.commit(gid)
    await this.breathe()
    return result
  }

  /** Runs `read` on committed data. */
  async read<T>(read: (connections: Pick<Connections, 'reads' | 'seen'>) => T): Promise<T> {
    const connections = await this.open()
    const result = await this.#poll(() => read(connections), performance.now() + openWaitMs)
    await this.breathe()
    return result
  }

  /** Everything here is synchronous: lets the event loop turn when it has not for a while. */
  async breathe(): Promise<void> {
    const now = performance.now()
    if (this.#turnBegan === 0) {
      this.#turnBegan = now
      // Runs when the loop turns by itself.
      setImmediate(() => {
        this.#turnBegan = 0
      })
    } else if (now - this.#turnBegan > turnMsMax) await new Promise(setImmediate)
  }

  /** The caller has ended its transactions. */
  async close(): Promise<void> {
    if (this.#closed) return
    this.#closed = true
    const connections = await this.#connections?.catch(() => null)
    if (connections === null || connections === undefined) return
    // Closed with its transaction open, the driver would keep the lock.
    this.#rollback(connections.writer)
    connections.reader.close()
    connections.writer.close()
  }

  async #open(): Promise<Connections> {
    const { name, path } = this.#options
    const deadline = performance.now() + openWaitMs
    try {
      mkdirSync(dirname(path), { recursive: true })
    } catch (error) {
      const why = error instanceof Error ? error.message : String(error)
      throw new HeadraceError('data-unreadable', `The folder of SQLite '${name}' cannot be used: ${why}.`, { cause: error })
    }
    const settings = { synchronous: 'full', cacheKiB, busyTimeoutMs: busyMs } as const
    const writer = await this.#poll(() => openDatabase(name, path, settings), deadline)
    try {
      const real = realpathSync(path)
      this.#mustBeWal(writer)
      await this.#setUp(real, writer)
      const reader = await this.#poll(() => openDatabase(name, path, { ...settings, readOnly: true }), deadline)
      return {
        path: real,
        writer,
        reader,
        writes: new Verbs(name, writer),
        reads: new Verbs(name, reader, { readOnly: true }),
        own: new OwnTables(name, writer),
        seen: new OwnTables(name, reader),
      }
    } catch (error) {
      this.#rollback(writer)
      writer.close()
      throw sqliteError(name, error)
    }
  }

  async #setUp(path: string, writer: DatabaseSyncInstance): Promise<void> {
    const { name, schema } = this.#options
    const deadline = performance.now() + openWaitMs
    const end = await takeTurn(path, { name, gid: null, waitMs: openWaitMs })
    try {
      const known = await this.#poll(() => {
        refuseJournals(name, path, writer)
        return versionOf(writer)
      }, deadline)
      if (known < ownTablesVersion) {
        await this.#poll(() => writer.exec('begin immediate'), deadline)
        // Looked at again under the lock: an app may have come meanwhile.
        refuseJournals(name, path, writer)
        writer.exec(ownTablesSql)
        writer.exec('commit')
      }
      const version = versionOf(writer)
      if (version !== ownTablesVersion)
        throw new HeadraceError(
          'tables-outdated',
          `SQLite '${name}' has Headrace's tables of version ${version}; this Headrace needs version ${ownTablesVersion}. Use the newer Headrace that made them.`,
          { details: { database: name, version, needed: ownTablesVersion } },
        )
      if (schema !== null) await this.#poll(() => this.#makeTables(writer, schema), deadline)
      // While others use the file a part may be left: then what is in the log is theirs, and known to be on disk.
      writer.prepare('pragma wal_checkpoint(passive)').get()
    } finally {
      this.#rollback(writer)
      end()
    }
  }

  #makeTables(writer: DatabaseSyncInstance, schema: string): void {
    try {
      writer.exec(schema)
    } catch (error) {
      this.#rollback(writer)
      throw sqliteError(this.name, error, schema)
    }
    if (!writer.isTransaction) return
    this.#rollback(writer)
    throw new HeadraceError('sql-failed', `The schema of SQLite '${this.name}' begins a transaction that it does not commit.`)
  }

  #mustBeWal(writer: DatabaseSyncInstance): void {
    const { journal_mode: mode } = writer.prepare('pragma journal_mode').get() as { readonly journal_mode: string }
    if (mode === 'wal') return
    throw new HeadraceError(
      'database-unfit',
      `SQLite '${this.name}' (${this.#options.path}) stays in journal mode '${mode}': with another than 'wal', a power cut may take acknowledged commits. Put the file on a local disk, and close programs that use it.`,
      { details: { database: this.name, mode } },
    )
  }

  /** Whatever a failed COMMIT has left is undone; what it means for the caller. */
  #refusedCommit(writer: DatabaseSyncInstance, gid: string, error: unknown): HeadraceError {
    const known = sqliteError(this.name, error)
    this.#rollback(writer)
    if (known.code !== 'storage-failed') return known
    // The log may hold the commit, and the disk may keep it or not.
    this.#failure = new HeadraceError(
      'storage-failed',
      `SQLite '${this.name}' could not write a commit to disk (${known.message}). Nothing is read or written here any more: look after the disk, then start the process again.`,
      { details: { database: this.name }, cause: error },
    )
    return new HeadraceError(
      'transaction-unknown',
      `The disk failed in the commit of '${gid}' on SQLite '${this.name}': whether it is kept is found out when the file is opened again.`,
      { details: { database: this.name, gid }, cause: known },
    )
  }

  #rollback(writer: DatabaseSyncInstance): void {
    try {
      if (writer.isOpen && writer.isTransaction) writer.exec('rollback')
    } catch (error) {
      const { message } = sqliteError(this.name, error)
      this.#failure ??= new HeadraceError(
        'storage-failed',
        `SQLite '${this.name}' could not undo a transaction (${message}). Start the process again: opening the file undoes it.`,
        { details: { database: this.name }, cause: error },
      )
    }
  }

  /** Tries again while another process holds the lock. */
  async #poll<T>(act: () => T, deadline: number, signal?: AbortSignal): Promise<T> {
    for (let attempt = 0; ; attempt += 1) {
      if (signal?.aborted === true) throw givenUp(this.name, signal)
      // Rejects.
      if (this.#closed || this.#failure !== null) await this.open()
      try {
        return act()
      } catch (error) {
        const known = sqliteError(this.name, error)
        if (known.code !== 'sql-busy') throw known
        const left = deadline - performance.now()
        if (left <= 0) throw busy(this.name, 'another process wrote to it for too long')
        await pause(Math.min(left, backoffMs(attempt, pollBaseMs, pollMaxMs)), signal)
      }
    }
  }
}
