/**
 * One SQLite database of the app, as a participant of the embedded protocol.
 *
 * States: idle → begun (BEGIN IMMEDIATE, a session records) → prepared (the
 * fence row is moved and the changeset taken) → idle again by commit or abort.
 *
 * What must hold:
 * - `headrace_partition` has one row per journal and name in it: the epoch of its
 *   owner and the number of the last batch this file has. Both change in the transaction of
 *   the batch, so the row tells the truth after any crash.
 * - Everything a batch changes is in its changeset; a table without a primary
 *   key would be left out by SQLite in silence, so it is refused.
 */
import { constants, type DatabaseSyncInstance, type Session } from '@photostructure/sqlite'
import { HeadraceError } from '../../contracts/errors.ts'
import { sqliteError } from './errors.ts'
import { openDatabase } from './open.ts'
import { refuseCoordinators } from './own-tables.ts'
import { Verbs } from './verbs.ts'

export interface ParticipantOptions {
  readonly name: string
  readonly path: string
  /** SQL that makes the tables; run at every start, so it must be idempotent. */
  readonly schema: string | null
}

const cacheKiB = 64 * 1024
const ownTable = 'headrace_partition'

export class Participant {
  readonly name: string
  readonly path: string
  readonly reads: Verbs
  readonly writes: Verbs
  readonly #scope: string
  readonly #schema: string | null
  readonly #writer: DatabaseSyncInstance
  readonly #reader: DatabaseSyncInstance
  readonly #moveFence: (epoch: number, batch: number) => boolean
  #session: Session | null = null
  #changesBefore = 0
  #schemaVersion = -1

  constructor(options: ParticipantOptions, scope: string) {
    this.name = options.name
    this.path = options.path
    this.#scope = scope
    this.#schema = options.schema
    this.#writer = openDatabase(options.name, options.path, { synchronous: 'normal', cacheKiB })
    try {
      refuseCoordinators(options.name, options.path, this.#writer)
      // The ledger checkpoints by itself, since it must know what is on disk.
      this.#writer.exec('pragma wal_autocheckpoint = 0')
      this.#writer.exec(
        'create table if not exists headrace_partition (scope text primary key not null, epoch integer not null, batch integer not null) without rowid',
      )
      this.#reader = openDatabase(options.name, options.path, { synchronous: 'normal', readOnly: true, cacheKiB })
    } catch (error) {
      this.#writer.close()
      throw sqliteError(options.name, error)
    }
    this.writes = new Verbs(options.name, this.#writer)
    this.reads = new Verbs(options.name, this.#reader, { readOnly: true })
    const move = this.#writer.prepare('update headrace_partition set epoch = ?, batch = ? where scope = ? and epoch <= ?')
    this.#moveFence = (epoch, batch) => Number(move.run(epoch, batch, scope, epoch).changes) === 1
  }

  /** Makes the tables of the app: not before it is known that this is the right file. */
  makeTables(): void {
    try {
      if (this.#schema !== null) this.#writer.exec(this.#schema)
    } catch (error) {
      throw sqliteError(this.name, error, this.#schema ?? undefined)
    }
    this.#guarded(() => this.#checkTables())
  }

  /** Whether other journals, or this one under another name, have written the file. */
  hasOthers(): boolean {
    return this.#writer.prepare(`select 1 from ${ownTable} where scope <> ? limit 1`).get(this.#scope) !== undefined
  }

  /** The last batch this file has of our journal, or null when it has never seen it. */
  marker(): number | null {
    const row = this.#writer.prepare('select batch from headrace_partition where scope = ?').get(this.#scope) as
      | { batch: number }
      | undefined
    return row?.batch ?? null
  }

  /** Takes the file for an epoch, so that an older owner is refused from now on. */
  adopt(epoch: number, batch: number): void {
    this.#guarded(() => {
      this.#writer.exec('begin immediate')
      try {
        // A coordinator looks for the row under the same lock: one of the two is refused.
        refuseCoordinators(this.name, this.path, this.#writer)
        this.#writer
          .prepare(
            'insert into headrace_partition (scope, epoch, batch) values (?, ?, ?) on conflict (scope) do update set epoch = excluded.epoch where headrace_partition.epoch < excluded.epoch',
          )
          .run(this.#scope, epoch, batch)
        this.#writer.exec('commit')
      } finally {
        if (this.#writer.isTransaction) this.#writer.exec('rollback')
      }
    })
  }

  begin(): void {
    this.#guarded(() => {
      this.#writer.exec('begin immediate')
      this.#checkTables()
      this.#changesBefore = this.#totalChanges()
      this.#session = this.#writer.createSession()
    })
  }

  /**
   * Moves the fence and returns the changeset of the batch, or null when the
   * batch changed nothing here. Throws 'fenced' under an older epoch.
   */
  prepare(epoch: number, batch: number): Uint8Array | null {
    return this.#guarded(() => {
      if (this.#totalChanges() === this.#changesBefore) return null
      if (!this.#moveFence(epoch, batch)) {
        throw new HeadraceError(
          'fenced',
          `Another owner has taken SQLite '${this.name}' under a later epoch than ${epoch}. This node must stop.`,
        )
      }
      const changes = this.#session?.changeset() ?? null
      this.#session?.close()
      this.#session = null
      return changes
    })
  }

  commit(): void {
    this.#guarded(() => this.#writer.exec('commit'))
  }

  abort(): void {
    this.#session?.close()
    this.#session = null
    if (this.#writer.isTransaction) this.#guarded(() => this.#writer.exec('rollback'))
  }

  savepoint(action: 'savepoint' | 'rollback to' | 'release'): void {
    this.#guarded(() => this.#writer.exec(`${action} headrace_command`))
  }

  /**
   * Applies the changeset of a batch that the journal decided and this file
   * does not have. Triggers are taken out meanwhile, since their effects are in
   * the changeset already. Any difference between the changeset and the file
   * means that somebody else changed it: 'data-diverged', and nothing is changed.
   */
  redo(changes: Uint8Array, batch: number): void {
    this.#guarded(() => {
      this.#writer.exec('pragma foreign_keys = off')
      this.#writer.exec('begin immediate')
      try {
        const triggers = this.#writer.prepare("select name, sql from sqlite_master where type = 'trigger'").all() as {
          name: string
          sql: string
        }[]
        for (const { name } of triggers) this.#writer.exec(`drop trigger "${name.replaceAll('"', '""')}"`)
        const applied = this.#writer.applyChangeset(changes, {
          // Its row here may be of another epoch than the batch: the one that took the file was not on disk yet.
          filter: (table) => table !== ownTable,
          onConflict: () => constants.SQLITE_CHANGESET_ABORT,
        })
        if (!applied) {
          throw new HeadraceError(
            'data-diverged',
            `Batch ${batch} of the journal does not fit the rows of SQLite '${this.name}' (${this.path}): somebody else changed the file after a crash. Restore the data directory from a backup; nothing was changed.`,
          )
        }
        this.#writer.prepare(`update ${ownTable} set batch = ? where scope = ?`).run(batch, this.#scope)
        for (const { sql } of triggers) this.#writer.exec(sql)
        this.#writer.exec('commit')
      } catch (error) {
        if (this.#writer.isTransaction) this.#writer.exec('rollback')
        throw error
      } finally {
        this.#writer.exec('pragma foreign_keys = on')
      }
    })
  }

  /** Moves the log into the file, with fsync. True when all of it went. */
  checkpoint(): boolean {
    return this.#guarded(() => {
      const row = this.#writer.prepare('pragma wal_checkpoint(passive)').get() as { busy: number; log: number; checkpointed: number }
      return row.busy === 0 && row.log === row.checkpointed
    })
  }

  close(): void {
    this.abort()
    this.#reader.close()
    this.#writer.close()
  }

  /** Runs again whenever somebody changed the schema: the check costs one pragma a batch. */
  #checkTables(): void {
    const { schema_version: version } = this.#writer.prepare('pragma schema_version').get() as { schema_version: number }
    if (version === this.#schemaVersion) return
    // A deferred constraint would be checked by the file's own commit, when the journal has decided already.
    const deferred = this.#writer
      .prepare("select name from sqlite_master where type = 'table' and replace(sql, char(10), ' ') like '%deferrable%initially%deferred%'")
      .get() as { name: string } | undefined
    if (deferred !== undefined) {
      throw new HeadraceError(
        'constraint-deferred',
        `Table '${deferred.name}' of SQLite '${this.name}' has a foreign key that is DEFERRABLE INITIALLY DEFERRED; a batch could then fail after it was decided. Declare it without.`,
        { details: { database: this.name, table: deferred.name } },
      )
    }
    const tables = this.#writer
      .prepare("select name from pragma_table_list where schema = 'main' and type = 'table' and name not like 'sqlite\\_%' escape '\\'")
      .all() as { name: string }[]
    for (const { name } of tables) {
      const keys = this.#writer.prepare('select count(*) as n from pragma_table_info(?) where pk > 0').get(name) as { n: number }
      if (keys.n === 0) {
        throw new HeadraceError(
          'table-without-key',
          `Table '${name}' of SQLite '${this.name}' has no primary key, so its changes could not be replayed after a crash. Give it one.`,
          { details: { database: this.name, table: name } },
        )
      }
    }
    this.#schemaVersion = version
  }

  #totalChanges(): number {
    return (this.#writer.prepare('select total_changes() as n').get() as { n: number }).n
  }

  #guarded<T>(action: () => T): T {
    try {
      return action()
    } catch (error) {
      throw sqliteError(this.name, error)
    }
  }
}
