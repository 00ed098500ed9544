/**
 * The journal: queue, outcomes, dead letters, decisions and redo in one SQLite
 * file, so that one commit decides a batch.
 *
 * Synchronous, on whichever thread runs the engine. Nothing here knows of the
 * files that a batch changes; `engine.ts` orders the two.
 */
import { crc32 } from 'node:zlib'
import type { DatabaseSyncInstance, StatementSyncInstance } from '@photostructure/sqlite'
import { HeadraceError } from '../../contracts/errors.ts'
import type { AppendConflict, BlockedKey, CommitRecord, DeadLetter, Entry, LedgerCounts, ReadOptions, StoredOutcome } from '../../contracts/ledger.ts'
import { crashPoint } from '../../std/crash-point.ts'
import { hash53 } from '../../std/hash.ts'
import { sqliteError } from './errors.ts'
import { HashIndex } from './hash-index.ts'
import { openDatabase } from './open.ts'
import { journalFormat, journalSchema } from './schema.ts'

export interface JournalOptions {
  readonly path: string
  /** For a new journal. */
  readonly partitions: number
  readonly deployment: string
}

export interface Redo {
  readonly batch: number
  readonly file: string
  readonly changes: Uint8Array
}

export interface FileRecord {
  readonly path: string
  /** The last batch of this file whose redo is gone: the file must have it. */
  readonly dropped: number
}

const cacheKiB = 64 * 1024
/** Pages of the write-ahead log after which SQLite moves it into the file; 16 MiB, so that commits seldom pay for it. */
const checkpointPages = 4096
/** Rows that one pruning deletes, so that it never holds up a batch for long. */
const pruneRowsMax = 5_000

type EntryRow = { position: number; partition: number; key: string; id: string; hash: number; command: string; tenant: string; input: string; digest: string; accepted_at: number; attempts: number; parked: number; crc: number }
type DeadRow = { position: number; partition: number; key: string; id: string; command: string; tenant: string; input: string; digest: string; accepted_at: number; attempts: number; code: string; message: string; died_at: number; blocks: number }

export class Journal {
  readonly deployment: string
  readonly partitions: number
  readonly epoch: number
  readonly #database: DatabaseSyncInstance
  readonly #statements = new Map<string, StatementSyncInstance>()
  readonly #outcomeIndex: HashIndex
  readonly #entryIndex: HashIndex
  #position: number
  #batch: number
  #nextOutcome: number
  #firstOutcome: number
  #queued = 0
  #queuedBytes = 0
  #parked = 0
  #redoBytes = 0
  /** What the open transaction did to the indexes, to be undone if it fails. */
  #indexed: { readonly index: HashIndex; readonly hash: number; readonly row: number; readonly added: boolean }[] = []

  constructor(options: JournalOptions) {
    const database = openDatabase('journal', options.path, { synchronous: 'full', cacheKiB })
    this.#database = database
    try {
      database.exec(`pragma wal_autocheckpoint = ${checkpointPages}`)
      this.#checkPages(options.path)
      const isNew = database.prepare("select 1 from sqlite_master where name = 'meta'").get() === undefined
      database.exec('begin immediate')
      if (isNew) {
        database.exec(journalSchema)
        for (const [name, value] of Object.entries({ format: journalFormat, partitions: options.partitions, deployment: options.deployment, epoch: 0, position: 0, batch: 0 })) this.#setMeta(name, value)
      }
      const format = Number(this.#meta('format'))
      if (format !== journalFormat) throw new HeadraceError('data-version', `The journal ${options.path} has format ${format}; this version of Headrace reads format ${journalFormat}.`)
      this.partitions = Number(this.#meta('partitions'))
      if (this.partitions !== options.partitions) {
        throw new HeadraceError('data-partitions', `The data directory was created with ${this.partitions} partitions, and cannot be opened with ${options.partitions}: keys would lose their order. Start with partitions = ${this.partitions}, or use a new data directory.`, { details: { has: this.partitions, asked: options.partitions } })
      }
      this.deployment = String(this.#meta('deployment'))
      this.epoch = Number(this.#meta('epoch')) + 1
      this.#setMeta('epoch', this.epoch)
      database.exec('commit')
      this.#position = Number(this.#meta('position'))
      this.#batch = Number(this.#meta('batch'))
      const outcomes = this.#run('select coalesce(min(n), 1) as first, coalesce(max(n), 0) as last from outcome').get() as { first: number; last: number }
      this.#firstOutcome = outcomes.first
      this.#nextOutcome = outcomes.last + 1
      this.#outcomeIndex = this.#index('select n as row, hash from outcome', outcomes.last - outcomes.first + 1)
      this.#entryIndex = this.#readEntries()
    } catch (error) {
      if (database.isOpen) database.close()
      throw sqliteError('journal', error)
    }
  }

  get firstPosition(): number {
    return this.#position + 1
  }

  get lastBatch(): number {
    return this.#batch
  }

  get redoBytes(): number {
    return this.#redoBytes
  }

  append(entries: readonly Entry[]): AppendConflict[] {
    const conflicts: AppendConflict[] = []
    this.#transaction(() => {
      for (const entry of entries) {
        const conflict = this.#conflict(entry)
        if (conflict === null) this.#insertEntry(entry, 0)
        else conflicts.push(conflict)
      }
      this.#raisePosition(entries.at(-1)?.position ?? 0)
      crashPoint('append.before-commit')
    })
    crashPoint('append.after-commit')
    return conflicts
  }

  read(options: ReadOptions): Entry[] {
    const rows = this.#run('select * from entry where position > ? and parked = 0 and partition % ? = ? order by position limit ?').iterate(options.after, options.lanes, options.lane, options.limit) as Iterable<EntryRow>
    const entries: Entry[] = []
    let bytes = 0
    for (const row of rows) {
      bytes += row.input.length
      if (entries.length > 0 && bytes > options.bytesMax) break
      entries.push(entryOf(row))
    }
    return entries
  }

  /** Writes a batch as decided: its record, and the redo of every file. One commit, on disk when it returns. */
  decide(record: CommitRecord, redo: readonly Redo[]): void {
    this.#transaction(() => {
      const outcome = this.#run('insert into outcome (n, hash, id, status, digest, body, position, partition, at, crc) values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)')
      for (const { id, status, digest, body, position, partition, at } of record.outcomes) {
        const hash = hash53(id)
        outcome.run(this.#nextOutcome, hash, id, status, digest, body, position, partition, at, crc32(body))
        this.#addTo(this.#outcomeIndex, hash, this.#nextOutcome)
        this.#nextOutcome += 1
      }
      for (const entry of record.done) this.#deleteEntry(entry)
      for (const entry of record.parked) {
        if (entry.queued) this.#deleteEntry(entry)
        this.#insertEntry(entry, 1)
      }
      for (const { key, partition, retryAt } of record.blocked) this.#block(key, partition, retryAt)
      for (const dead of record.dead) this.#insertDead(dead)
      const keep = this.#run('insert into redo (batch, file, changes, crc) values (?, ?, ?, ?)')
      for (const { batch, file, changes } of redo) {
        keep.run(batch, file, changes, crc32(changes))
        this.#redoBytes += changes.length
      }
      this.#raisePosition(record.position)
      if (redo.length > 0) this.#setMeta('batch', redo[0]?.batch ?? this.#batch)
      crashPoint('commit.inside-journal')
    })
    if (redo.length > 0) this.#batch = redo[0]?.batch ?? this.#batch
  }

  outcomes(ids: readonly string[]): StoredOutcome[] {
    const found: StoredOutcome[] = []
    for (const id of ids) {
      const outcome = this.#outcome(id)
      if (outcome !== null) found.push(outcome)
    }
    return found
  }

  pending(id: string): { readonly digest: string; readonly position: number } | null {
    for (const position of this.#entryIndex.find(id)) {
      const row = this.#run('select id, digest, position from entry where position = ?').get(position) as { id: string; digest: string; position: number } | undefined
      if (row?.id === id) return { digest: row.digest, position: row.position }
    }
    return null
  }

  counts(): LedgerCounts {
    const dead = this.#run('select count(*) as n from dead').get() as { n: number }
    const blocked = this.#run('select count(*) as n from blocked').get() as { n: number }
    const oldest = this.#run('select accepted_at from entry order by position limit 1').get() as { accepted_at: number } | undefined
    return {
      queued: this.#queued,
      queuedBytes: this.#queuedBytes,
      parked: this.#parked,
      outcomes: this.#outcomeIndex.size,
      dead: dead.n,
      blockedKeys: blocked.n,
      oldestAcceptedAt: oldest?.accepted_at ?? null,
    }
  }

  blockedKeys(): BlockedKey[] {
    // A key that was draining has parked commands and no row of its own: its time has come.
    const rows = this.#run(
      `select key, partition, retry_at, (select count(*) from entry where parked = 1 and entry.key = blocked.key) as parked from blocked
       union all
       select key, partition, 0, count(*) from entry where parked = 1 and key not in (select key from blocked) group by key, partition
       order by key`,
    ).all() as { key: string; partition: number; retry_at: number | null; parked: number }[]
    return rows.map(({ key, partition, retry_at, parked }) => ({ key, partition, retryAt: retry_at, parked }))
  }

  unblock(key: string, limit: number): { entries: Entry[]; more: boolean } {
    return this.#transaction(() => {
      const rows = this.#run('select * from entry where parked = 1 and key = ? order by position limit ?').all(key, limit + 1) as EntryRow[]
      const more = rows.length > limit
      const taken = more ? rows.slice(0, limit) : rows
      const wake = this.#run('update entry set parked = 0 where position = ?')
      for (const row of taken) wake.run(row.position)
      this.#parked -= taken.length
      if (!more) this.#run('delete from blocked where key = ?').run(key)
      return { entries: taken.map(entryOf), more }
    })
  }

  deadLetters(after: number, limit: number): DeadLetter[] {
    return (this.#run('select * from dead where position > ? order by position limit ?').all(after, limit) as DeadRow[]).map(deadLetterOf)
  }

  deadLetter(position: number): DeadLetter | null {
    const row = this.#deadRow(position)
    return row === undefined ? null : deadLetterOf(row)
  }

  redrive(position: number): { key: string; partition: number } | null {
    return this.#transaction(() => {
      const row = this.#deadRow(position)
      if (row === undefined) return null
      this.#forgetOutcome(row.id)
      this.#insertEntry({ ...row, acceptedAt: row.accepted_at, attempts: 0, queued: true }, 1)
      this.#block(row.key, row.partition, Date.now())
      this.#run('delete from dead where position = ?').run(position)
      return { key: row.key, partition: row.partition }
    })
  }

  drop(position: number): { key: string; partition: number; blocked: boolean } | null {
    return this.#transaction(() => {
      const row = this.#deadRow(position)
      if (row === undefined) return null
      this.#run('delete from dead where position = ?').run(position)
      const others = this.#run('select 1 from dead where key = ? and blocks = 1').get(row.key)
      const blocked = row.blocks === 1 && others === undefined
      if (blocked) this.#block(row.key, row.partition, Date.now())
      return { key: row.key, partition: row.partition, blocked }
    })
  }

  prune(olderThan: number, keepMax: number): number {
    const last = this.#nextOutcome - keepMax
    const first = this.#run('select at from outcome where n >= ? order by n limit 1').get(this.#firstOutcome) as { at: number } | undefined
    if (first === undefined || (first.at >= olderThan && this.#firstOutcome >= last)) return 0
    const rows = this.#run('select n, hash, at from outcome where n >= ? order by n limit ?').all(this.#firstOutcome, pruneRowsMax) as { n: number; hash: number; at: number }[]
    const gone = rows.findIndex((row) => row.at >= olderThan && row.n >= last)
    const old = gone === -1 ? rows : rows.slice(0, gone)
    const end = old.at(-1)?.n
    if (end === undefined) return 0
    this.#transaction(() => this.#run('delete from outcome where n <= ?').run(end))
    for (const { n, hash } of old) this.#outcomeIndex.remove(hash, n)
    this.#firstOutcome = end + 1
    return old.length
  }

  file(name: string): FileRecord | null {
    return (this.#run('select path, dropped from file where name = ?').get(name) as unknown as FileRecord | undefined) ?? null
  }

  registerFile(name: string, path: string, dropped: number): void {
    this.#run('insert into file (name, path, dropped) values (?, ?, ?) on conflict (name) do update set path = excluded.path').run(name, path, dropped)
  }

  /** The redo that a file with this marker lacks, in order of batch. */
  redoAfter(file: string, marker: number): Redo[] {
    const rows = this.#run('select batch, file, changes, crc from redo where file = ? and batch > ? order by batch').all(file, marker) as unknown as (Redo & { crc: number })[]
    for (const row of rows) {
      if (crc32(row.changes) !== row.crc) throw new HeadraceError('data-corrupt', `The redo of batch ${row.batch} for SQLite '${file}' in the journal is damaged (its checksum is wrong). Restore the data directory from a backup; nothing was changed.`)
    }
    return rows
  }

  /** Forgets redo up to `batch`: every file has it on disk. */
  dropRedo(batch: number): void {
    this.#transaction(() => {
      this.#run('update file set dropped = max(dropped, coalesce((select max(batch) from redo where redo.file = file.name and redo.batch <= ?), 0))').run(batch)
      this.#run('delete from redo where batch <= ?').run(batch)
    })
    const left = this.#run('select coalesce(sum(length(changes)), 0) as bytes from redo').get() as { bytes: number }
    this.#redoBytes = left.bytes
  }

  close(): void {
    this.#database.close()
  }

  #checkPages(path: string): void {
    const rows = this.#database.prepare('pragma quick_check(1)').all() as { quick_check: string }[]
    const finding = rows[0]?.quick_check
    if (finding !== 'ok') throw new HeadraceError('data-corrupt', `The journal ${path} is damaged: ${finding}. Restore the data directory from a backup; nothing was changed.`)
  }

  /** Counts what waits, and makes the index of ids, in one pass; checks every entry's checksum on the way. */
  #readEntries(): HashIndex {
    const index = new HashIndex()
    const rows = this.#run('select position, hash, parked, input, crc from entry').iterate() as Iterable<Pick<EntryRow, 'position' | 'hash' | 'parked' | 'input' | 'crc'>>
    for (const { position, hash, parked, input, crc } of rows) {
      if (crc32(input) !== crc) throw new HeadraceError('data-corrupt', `The queued command at position ${position} of the journal is damaged (its checksum is wrong). Restore the data directory from a backup; nothing was changed.`)
      index.addHash(hash, position)
      this.#queued += 1
      this.#queuedBytes += input.length
      this.#parked += parked
    }
    return index
  }

  #index(query: string, expected: number): HashIndex {
    const index = new HashIndex(Math.max(1024, expected))
    for (const { row, hash } of this.#run(query).iterate() as Iterable<{ row: number; hash: number }>) index.addHash(hash, row)
    return index
  }

  #conflict(entry: Entry): AppendConflict | null {
    const outcome = this.#outcome(entry.id)
    if (outcome !== null) return { id: entry.id, known: 'decided', digest: outcome.digest }
    const waiting = this.pending(entry.id)
    return waiting === null || waiting.position === entry.position ? null : { id: entry.id, known: 'queued', digest: waiting.digest }
  }

  #outcome(id: string): StoredOutcome | null {
    for (const n of this.#outcomeIndex.find(id)) {
      const row = this.#run('select id, status, digest, body, position, partition, at, crc from outcome where n = ?').get(n) as (StoredOutcome & { crc: number }) | undefined
      if (row?.id !== id) continue
      const { crc, ...outcome } = row
      if (crc32(outcome.body) !== crc) throw new HeadraceError('data-corrupt', `The outcome of ${id} in the journal is damaged (its checksum is wrong). Restore the data directory from a backup.`)
      return outcome
    }
    return null
  }

  #forgetOutcome(id: string): void {
    for (const n of this.#outcomeIndex.find(id)) {
      const row = this.#run('select id, hash from outcome where n = ?').get(n) as { id: string; hash: number } | undefined
      if (row?.id !== id) continue
      this.#run('delete from outcome where n = ?').run(n)
      this.#removeFrom(this.#outcomeIndex, row.hash, n)
    }
  }

  #insertEntry(entry: Entry, parked: 0 | 1): void {
    const hash = hash53(entry.id)
    this.#run('insert into entry (position, partition, key, id, hash, command, tenant, input, digest, accepted_at, attempts, parked, crc) values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)').run(
      entry.position,
      entry.partition,
      entry.key,
      entry.id,
      hash,
      entry.command,
      entry.tenant,
      entry.input,
      entry.digest,
      entry.acceptedAt,
      entry.attempts,
      parked,
      crc32(entry.input),
    )
    this.#addTo(this.#entryIndex, hash, entry.position)
    this.#queued += 1
    this.#queuedBytes += entry.input.length
    this.#parked += parked
  }

  #deleteEntry(entry: Entry): void {
    const row = this.#run('delete from entry where position = ? returning parked').get(entry.position) as { parked: number } | undefined
    if (row === undefined) return
    this.#removeFrom(this.#entryIndex, hash53(entry.id), entry.position)
    this.#queued -= 1
    this.#queuedBytes -= entry.input.length
    this.#parked -= row.parked
  }

  #insertDead(dead: DeadLetter & { readonly digest: string }): void {
    this.#run('insert into dead (position, partition, key, id, command, tenant, input, digest, accepted_at, attempts, code, message, died_at, blocks) values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)').run(
      dead.position,
      dead.partition,
      dead.key,
      dead.id,
      dead.command,
      dead.tenant,
      dead.input,
      dead.digest,
      dead.acceptedAt,
      dead.attempts,
      dead.code,
      dead.message,
      dead.diedAt,
      dead.blocks ? 1 : 0,
    )
  }

  #deadRow(position: number): DeadRow | undefined {
    return this.#run('select * from dead where position = ?').get(position) as DeadRow | undefined
  }

  #block(key: string, partition: number, retryAt: number | null): void {
    this.#run('insert into blocked (key, partition, retry_at) values (?, ?, ?) on conflict (key) do update set retry_at = excluded.retry_at').run(key, partition, retryAt)
  }

  #raisePosition(position: number): void {
    if (position <= this.#position) return
    this.#setMeta('position', position)
    this.#position = position
  }

  #meta(name: string): unknown {
    return (this.#run('select value from meta where name = ?').get(name) as { value: unknown } | undefined)?.value
  }

  #setMeta(name: string, value: string | number): void {
    this.#run('insert into meta (name, value) values (?, ?) on conflict (name) do update set value = excluded.value').run(name, value)
  }

  /** Prepared once per text; the texts of this file are few. */
  #run(text: string): StatementSyncInstance {
    const known = this.#statements.get(text)
    if (known !== undefined) return known
    const statement = this.#database.prepare(text)
    this.#statements.set(text, statement)
    return statement
  }

  #addTo(index: HashIndex, hash: number, row: number): void {
    index.addHash(hash, row)
    this.#indexed.push({ index, hash, row, added: true })
  }

  #removeFrom(index: HashIndex, hash: number, row: number): void {
    index.remove(hash, row)
    this.#indexed.push({ index, hash, row, added: false })
  }

  /** What is counted and indexed in memory follows the file: a transaction that fails is undone in both. */
  #transaction<T>(action: () => T): T {
    const memory = { position: this.#position, nextOutcome: this.#nextOutcome, queued: this.#queued, queuedBytes: this.#queuedBytes, parked: this.#parked, redoBytes: this.#redoBytes }
    this.#indexed = []
    try {
      this.#run('begin immediate').run()
      const result = action()
      this.#run('commit').run()
      return result
    } catch (error) {
      if (this.#database.isTransaction) this.#database.exec('rollback')
      for (const { index, hash, row, added } of this.#indexed.reverse()) {
        if (added) index.remove(hash, row)
        else index.addHash(hash, row)
      }
      this.#position = memory.position
      this.#nextOutcome = memory.nextOutcome
      this.#queued = memory.queued
      this.#queuedBytes = memory.queuedBytes
      this.#parked = memory.parked
      this.#redoBytes = memory.redoBytes
      const known = sqliteError('journal', error)
      // The statements of the journal are its own: one that fails is never a caller's fault.
      throw known.code === 'sql-failed' ? new HeadraceError('storage-failed', known.message, { cause: error }) : known
    }
  }
}

function entryOf(row: EntryRow): Entry {
  if (crc32(row.input) !== row.crc) throw new HeadraceError('data-corrupt', `The queued command at position ${row.position} of the journal is damaged (its checksum is wrong). Restore the data directory from a backup.`)
  return { position: row.position, partition: row.partition, key: row.key, id: row.id, command: row.command, tenant: row.tenant, input: row.input, digest: row.digest, acceptedAt: row.accepted_at, attempts: row.attempts, queued: true }
}

function deadLetterOf(row: DeadRow): DeadLetter {
  return { position: row.position, partition: row.partition, key: row.key, id: row.id, command: row.command, tenant: row.tenant, input: row.input, acceptedAt: row.accepted_at, attempts: row.attempts, code: row.code, message: row.message, diedAt: row.died_at, blocks: row.blocks === 1 }
}
