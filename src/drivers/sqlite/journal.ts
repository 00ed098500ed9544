/**
 * The journal: queue, outcomes, dead letters, decisions and redo in one SQLite
 * file, so that one commit decides a batch.
 *
 * Synchronous, on whichever thread runs the engine. Nothing here knows of the
 * files that a batch changes; `engine.ts` orders the two.
 */
import { HeadraceError } from '../../contracts/errors.ts'
import type {
  AppendConflict,
  BlockedKey,
  CommitRecord,
  DeadLetter,
  Entry,
  LedgerCounts,
  QueuedEvent,
  QueuedId,
  ReadOptions,
  StoredOutcome,
} from '../../contracts/ledger.ts'
import type { Decision } from '../../contracts/participant.ts'
import { crashPoint } from '../../std/crash-point.ts'
import type { EngineOptions } from './calls.ts'
import { DeadTable, withoutDigest } from './dead-table.ts'
import { DecisionTable } from './decision-table.ts'
import { EntryTable } from './entry-table.ts'
import { sqliteError } from './errors.ts'
import { EventTable } from './event-table.ts'
import { OutcomeTable } from './outcome-table.ts'
import { type Redo, RedoTable } from './redo-table.ts'
import { journalFormat, journalSchema } from './schema.ts'
import { JournalStore, type Memory } from './store.ts'

export interface JournalOptions {
  readonly path: string
  /** For a new journal. */
  readonly partitions: number
  readonly deployment: string
  readonly queue: EngineOptions['queue']
}

export class Journal implements Memory {
  readonly deployment: string
  readonly partitions: number
  readonly epoch: number
  readonly redo: RedoTable
  readonly #store: JournalStore
  readonly #entries: EntryTable
  readonly #outcomes: OutcomeTable
  readonly #dead: DeadTable
  readonly #decisions: DecisionTable
  readonly #events: EventTable
  #position: number
  #batch: number

  /** Opens the journal, and raises its epoch. Throws 'data-corrupt', 'data-version', 'data-partitions', 'queue-differs'. */
  constructor(options: JournalOptions) {
    this.#store = new JournalStore(options.path)
    try {
      this.#store.database.exec('begin immediate')
      this.#create(options)
      this.partitions = this.#checked(options)
      this.#takeQueue(options.queue)
      this.deployment = String(this.#store.meta('deployment'))
      this.epoch = Number(this.#store.meta('epoch')) + 1
      this.#store.setMeta('epoch', this.epoch)
      this.#entries = new EntryTable(this.#store)
      this.#store.database.exec('commit')
      this.#store.fence(this.epoch)
      this.#position = Number(this.#store.meta('position'))
      this.#batch = Number(this.#store.meta('batch'))
      this.#outcomes = new OutcomeTable(this.#store)
      this.#dead = new DeadTable(this.#store)
      this.#decisions = new DecisionTable(this.#store)
      this.#events = new EventTable(this.#store)
      this.redo = new RedoTable(this.#store)
      this.#store.follow(this)
    } catch (error) {
      // Closed with its transaction open, the driver would keep the lock.
      if (this.#store.database.isTransaction) this.#store.database.exec('rollback')
      this.#store.database.close()
      throw sqliteError('journal', error)
    }
  }

  get firstPosition(): number {
    return this.#position + 1
  }

  get lastBatch(): number {
    return this.#batch
  }

  remember(): () => void {
    const [position, batch] = [this.#position, this.#batch]
    return () => {
      this.#position = position
      this.#batch = batch
    }
  }

  append(entries: readonly Entry[]): AppendConflict[] {
    const conflicts: AppendConflict[] = []
    // Not always the last: a command in memory that somebody wants safe may come after later ones that spilled.
    let highest = 0
    this.#store.transaction(() => {
      const fresh = new Map<string, Entry>()
      for (const entry of entries) {
        const sameId = fresh.get(entry.id)
        const conflict = sameId === undefined ? this.#conflict(entry) : ({ id: entry.id, known: 'queued', digest: sameId.digest } as const)
        if (conflict === null) fresh.set(entry.id, entry)
        else conflicts.push(conflict)
        highest = Math.max(highest, entry.position)
      }
      this.#entries.insert([...fresh.values()], false)
      this.#raisePosition(highest)
      crashPoint('append.before-commit')
    })
    crashPoint('append.after-commit')
    return conflicts
  }

  read(options: ReadOptions): Entry[] {
    return this.#entries.read(options)
  }

  /** Writes a batch as decided: its record, and the redo of every file. One commit, on disk when it returns. */
  decide(record: CommitRecord, redo: readonly Redo[]): void {
    this.#store.transaction(() => {
      if (record.decision !== undefined) {
        // Whoever inserts first decides: recovery may have been here.
        if (this.#decisions.find(record.decision.gid) !== null) throw new HeadraceError('transaction-aborted')
        this.#decisions.insert(record.decision)
      }
      this.#outcomes.insert(record.outcomes)
      for (const entry of record.done) this.#entries.delete(entry)
      for (const entry of record.parked) if (entry.queued) this.#entries.delete(entry)
      this.#entries.insert(record.parked, true)
      for (const { key, partition, retryAt } of record.blocked) this.#entries.block(key, partition, retryAt)
      for (const dead of record.dead) this.#dead.insert(dead)
      this.#events.insert(record.events ?? [])
      for (const each of redo) this.redo.insert(each)
      this.#raisePosition(record.position)
      if (redo.length > 0 || record.decision !== undefined) {
        this.#batch += 1
        this.#store.setMeta('batch', this.#batch)
      }
      crashPoint('commit.inside-journal')
    })
  }

  outcomes(ids: readonly string[]): StoredOutcome[] {
    return foundBy(ids, (id) => this.#outcomes.find(id))
  }

  pending(id: string): QueuedId | null {
    return this.#entries.find(id)
  }

  pendingOf(ids: readonly string[]): QueuedId[] {
    return foundBy(ids, (id) => this.#entries.find(id))
  }

  counts(): LedgerCounts {
    const { queued, queuedBytes, parked } = this.#entries
    const oldestAcceptedAt = this.#entries.oldestAcceptedAt()
    return {
      queued,
      queuedBytes,
      parked,
      outcomes: this.#outcomes.size,
      dead: this.#dead.size,
      blockedKeys: this.blockedKeys().length,
      events: this.#events.size,
      oldestAcceptedAt,
    }
  }

  blockedKeys(): BlockedKey[] {
    return this.#entries.blockedKeys()
  }

  unblock(key: string, limit: number): { entries: Entry[]; more: boolean } {
    return this.#store.transaction(() => {
      const woken = this.#entries.wake(key, limit)
      if (!woken.more) this.#entries.unblock(key)
      return woken
    })
  }

  deadLetters(after: number, limit: number): DeadLetter[] {
    return this.#dead.list(after, limit)
  }

  deadLetter(position: number): DeadLetter | null {
    const letter = this.#dead.find(position)
    return letter === null ? null : withoutDigest(letter)
  }

  redrive(position: number): { key: string; partition: number } | null {
    return this.#store.transaction(() => {
      const letter = this.#dead.find(position)
      if (letter === null) return null
      const { key, partition, id } = letter
      this.#outcomes.forget(id)
      this.#entries.insert([{ ...letter, attempts: 0, queued: true }], true)
      this.#entries.block(key, partition, Date.now())
      this.#dead.delete(position)
      return { key, partition }
    })
  }

  drop(position: number): { key: string; partition: number; blocked: boolean } | null {
    return this.#store.transaction(() => {
      const letter = this.#dead.find(position)
      if (letter === null) return null
      const { key, partition, blocks } = letter
      this.#dead.delete(position)
      const blocked = blocks && !this.#dead.blocks(key)
      if (blocked) this.#entries.block(key, partition, Date.now())
      return { key, partition, blocked }
    })
  }

  decision(gid: string): Decision | null {
    return this.#decisions.find(gid)
  }

  /** Decides 'abort' unless there is a decision; answers what holds. */
  decideAbort(gid: string, participants: readonly string[]): Decision {
    return this.#store.transaction(() => {
      const found = this.#decisions.find(gid)
      if (found !== null) return found
      const decision: Decision = { gid, verdict: 'abort', participants, decidedAt: Date.now() }
      this.#decisions.insert(decision)
      return decision
    })
  }

  decisions(prefix: string, limit: number): Decision[] {
    return this.#decisions.list(prefix, limit)
  }

  forgetDecisions(gids: readonly string[]): void {
    this.#store.transaction(() => this.#decisions.forget(gids))
  }

  events(limit: number): QueuedEvent[] {
    return this.#events.list(limit)
  }

  forgetEvents(upTo: number): void {
    this.#store.transaction(() => this.#events.forget(upTo))
  }

  prune(olderThan: number, keepMax: number): number {
    return this.#outcomes.prune(olderThan, keepMax)
  }

  close(): void {
    this.#store.database.close()
  }

  #create({ partitions, deployment }: JournalOptions): void {
    if (this.#store.database.prepare("select 1 from sqlite_master where name = 'meta'").get() !== undefined) return
    this.#store.database.exec(journalSchema)
    const meta = { format: journalFormat, partitions, deployment, epoch: 0, position: 0, batch: 0 }
    for (const [name, value] of Object.entries(meta)) this.#store.setMeta(name, value)
  }

  #checked({ path, partitions: asked }: JournalOptions): number {
    const format = Number(this.#store.meta('format'))
    if (format !== journalFormat)
      throw new HeadraceError(
        'data-version',
        `The journal ${path} has format ${format}; this version of Headrace reads format ${journalFormat}.`,
      )
    const has = Number(this.#store.meta('partitions'))
    if (has !== asked) {
      throw new HeadraceError(
        'data-partitions',
        `The data directory was created with ${has} partitions, and cannot be opened with ${asked}: keys would lose their order. Start with partitions = ${has}, or use a new data directory.`,
        { details: { has, asked } },
      )
    }
    return has
  }

  /** Accepted commands may wait in the queue that was used before: another one is refused, unless the user leaves them. */
  #takeQueue(queue: EngineOptions['queue']): void {
    if (queue === undefined) return
    const before = this.#store.meta('queue')
    const { name, leave } = queue
    if (typeof before === 'string' && before !== '' && before !== name && !leave)
      throw new HeadraceError(
        'queue-differs',
        `This data directory took its commands from ${before}, where accepted ones may wait${name === null ? '' : `; now it is given ${name}`}. Start with that queue until it is empty, then once with the queue 'none' (--queue none).`,
        { details: { before, asked: name } },
      )
    if ((name ?? '') !== (before ?? '')) this.#store.setMeta('queue', name ?? '')
  }

  #conflict(entry: Entry): AppendConflict | null {
    const outcome = this.#outcomes.find(entry.id)
    if (outcome !== null) return { id: entry.id, known: 'decided', digest: outcome.digest }
    const waiting = this.#entries.find(entry.id)
    return waiting === null || waiting.position === entry.position ? null : { id: entry.id, known: 'queued', digest: waiting.digest }
  }

  #raisePosition(position: number): void {
    if (position <= this.#position) return
    this.#store.setMeta('position', position)
    this.#position = position
  }
}

function foundBy<T>(ids: readonly string[], find: (id: string) => T | null): T[] {
  const found: T[] = []
  for (const id of ids) {
    const item = find(id)
    if (item !== null) found.push(item)
  }
  return found
}
