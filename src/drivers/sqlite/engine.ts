/**
 * The embedded engine: the journal and the files of the app, in the order that
 * makes a batch atomic across them (DESIGN 7.2).
 *
 *   begin      BEGIN IMMEDIATE on each file, in order of name; a session records.
 *   commit  1  each file: fence moved, changeset taken. Files without changes drop out.
 *           2  journal: outcomes, queue, redo, in one commit with fsync. This decides.
 *           3  each file: COMMIT, without fsync. The journal's redo stands in for it.
 *   checkpoint each file moved to disk with fsync; then its redo is dropped.
 *
 * A failure before step 2 undoes everything. A failure at step 2 that leaves
 * open whether the commit is on disk ends the engine: every later call is
 * refused with 'storage-failed', and the next start recovers. Nothing is
 * retried after a failed fsync. When step 3 meets a full disk, the batch is
 * decided all the same, and the file is *behind*: nothing reads or writes it
 * until the journal's redo has brought it up, which every later call on it
 * tries first.
 *
 * A statement that fails is a vote to abort: the transaction cannot commit any
 * more, even if the handler did not look at the error, unless a savepoint from
 * before the statement is rolled back.
 *
 * Everything here is synchronous and runs on one thread (see `port.ts`).
 */
import { HeadraceError } from '../../contracts/errors.ts'
import type { BatchIds } from '../../contracts/ledger.ts'
import { crashPoint } from '../../std/crash-point.ts'
import type { Journal } from './journal.ts'
import type { Redo } from './redo-table.ts'
import type { Participant } from './participant.ts'
import type { Call, CallName, Calls, Reply } from './calls.ts'
import type { RowSet } from './rows.ts'
import type { Verb } from './verbs.ts'
import { entriesIn, type Flat, flatEntries, fromWireRecord, type WireRecord } from './wire.ts'

/** Batches, and bytes of redo, after which the files are brought to disk. */
const checkpointBatches = 512
const checkpointBytes = 16 * 1024 ** 2

interface Open {
  readonly participants: readonly Participant[]
  /** The first statement that failed, since the last savepoint that was rolled back. */
  failed: unknown
}

export class Engine implements Calls {
  readonly #journal: Journal
  readonly #participants: ReadonlyMap<string, Participant>
  readonly #transactions = new Map<number, Open>()
  readonly #behind = new Set<Participant>()
  readonly #release: () => void
  #nextTransaction = 1
  #batchesSinceCheckpoint = 0
  #failure: HeadraceError | null = null

  constructor(journal: Journal, participants: ReadonlyMap<string, Participant>, release: () => void) {
    this.#journal = journal
    this.#participants = participants
    this.#release = release
  }

  /** Runs a call by name, as it comes from the other thread. */
  answer(call: Call): Reply[CallName] {
    if (this.#failure !== null && call.name !== 'close') throw this.#failure
    try {
      return (this[call.name] as (...parameters: unknown[]) => Reply[CallName])(...call.parameters)
    } catch (error) {
      if (HeadraceError.is(error) && (error.code === 'storage-failed' || error.code === 'fenced')) {
        this.#failure = error
        this.#abortAll()
      }
      throw error
    }
  }

  begin(databases: readonly string[], ids: BatchIds): Reply['begin'] {
    const known = this.#journal.outcomes([...ids.queued, ...ids.arriving])
    const queued = this.#journal.pendingOf(ids.arriving)
    const begun: Participant[] = []
    try {
      for (const name of [...databases].sort()) {
        const participant = this.#upToDate(name)
        begun.push(participant)
        participant.begin()
      }
    } catch (error) {
      for (const participant of begun) participant.abort()
      throw error
    }
    const transaction = this.#nextTransaction++
    this.#transactions.set(transaction, { participants: begun, failed: null })
    return { transaction, known, queued }
  }

  write(transaction: number, database: string, verb: Verb): RowSet | number {
    const open = this.#open(transaction)
    try {
      return this.#participant(database).writes.run(verb)
    } catch (error) {
      open.failed ??= error
      throw error
    }
  }

  read(database: string, verb: Verb): RowSet | number {
    return this.#upToDate(database).reads.run(verb)
  }

  savepoint(transaction: number, action: 'savepoint' | 'rollback to' | 'release'): void {
    const open = this.#open(transaction)
    if (action === 'rollback to') open.failed = null
    if (action === 'release' && open.failed !== null) throw open.failed
    for (const participant of open.participants) participant.savepoint(action)
  }

  commit(transaction: number, wire: WireRecord): number {
    const record = fromWireRecord(wire)
    const { participants, failed } = this.#open(transaction)
    this.#transactions.delete(transaction)
    const batch = this.#journal.lastBatch + 1
    const redo: Redo[] = []
    const changed: Participant[] = []
    try {
      if (failed !== null) throw failed
      for (const participant of participants) {
        const changes = participant.prepare(this.#journal.epoch, batch)
        if (changes === null) continue
        changed.push(participant)
        redo.push({ batch, file: participant.name, changes })
      }
      crashPoint('commit.before-journal')
      this.#journal.decide(record, redo)
    } catch (error) {
      for (const participant of participants) participant.abort()
      throw error
    }
    crashPoint('commit.after-journal')
    this.#commitFiles(participants, changed)
    crashPoint('commit.after-files')
    this.#batchesSinceCheckpoint += 1
    if (this.#batchesSinceCheckpoint >= checkpointBatches || this.#journal.redo.bytes >= checkpointBytes) this.#checkpointIfRoom()
    return this.#journal.lastBatch
  }

  abort(transaction: number): void {
    const open = this.#transactions.get(transaction)
    this.#transactions.delete(transaction)
    for (const participant of open?.participants ?? []) participant.abort()
  }

  append(entries: Flat): Reply['append'] {
    return this.#journal.append(entriesIn(entries))
  }

  queued(...parameters: Parameters<Calls['queued']>): Reply['queued'] {
    return flatEntries(this.#journal.read(...parameters))
  }

  outcomes(...parameters: Parameters<Calls['outcomes']>): Reply['outcomes'] {
    return this.#journal.outcomes(...parameters)
  }

  pending(...parameters: Parameters<Calls['pending']>): Reply['pending'] {
    return this.#journal.pending(...parameters)
  }

  counts(): Reply['counts'] {
    return this.#journal.counts()
  }

  blockedKeys(): Reply['blockedKeys'] {
    return this.#journal.blockedKeys()
  }

  unblock(...parameters: Parameters<Calls['unblock']>): Reply['unblock'] {
    return this.#journal.unblock(...parameters)
  }

  deadLetters(...parameters: Parameters<Calls['deadLetters']>): Reply['deadLetters'] {
    return this.#journal.deadLetters(...parameters)
  }

  deadLetter(...parameters: Parameters<Calls['deadLetter']>): Reply['deadLetter'] {
    return this.#journal.deadLetter(...parameters)
  }

  redrive(...parameters: Parameters<Calls['redrive']>): Reply['redrive'] {
    return this.#journal.redrive(...parameters)
  }

  drop(...parameters: Parameters<Calls['drop']>): Reply['drop'] {
    return this.#journal.drop(...parameters)
  }

  decision(...parameters: Parameters<Calls['decision']>): Reply['decision'] {
    return this.#journal.decision(...parameters)
  }

  decideAbort(...parameters: Parameters<Calls['decideAbort']>): Reply['decideAbort'] {
    return this.#journal.decideAbort(...parameters)
  }

  decisions(...parameters: Parameters<Calls['decisions']>): Reply['decisions'] {
    return this.#journal.decisions(...parameters)
  }

  forgetDecisions(...parameters: Parameters<Calls['forgetDecisions']>): Reply['forgetDecisions'] {
    return this.#journal.forgetDecisions(...parameters)
  }

  events(...parameters: Parameters<Calls['events']>): Reply['events'] {
    return this.#journal.events(...parameters)
  }

  forgetEvents(...parameters: Parameters<Calls['forgetEvents']>): Reply['forgetEvents'] {
    return this.#journal.forgetEvents(...parameters)
  }

  prune(...parameters: Parameters<Calls['prune']>): Reply['prune'] {
    return this.#journal.prune(...parameters)
  }

  /** A clean end leaves nothing to redo: the next start finds every file on disk. */
  close(): void {
    this.#abortAll()
    try {
      if (this.#failure === null) this.#checkpointIfRoom()
    } finally {
      for (const participant of this.#participants.values()) participant.close()
      this.#journal.close()
      this.#release()
    }
  }

  #commitFiles(participants: readonly Participant[], changed: readonly Participant[]): void {
    for (const participant of participants) {
      if (!changed.includes(participant)) participant.abort()
    }
    let firstError: unknown = null
    changed.forEach((participant, index) => {
      if (index > 0) crashPoint('commit.between-files')
      // The storage has failed: from here on nothing is written, the journal has it all.
      if (firstError !== null && !isFull(firstError)) {
        participant.abort()
        return
      }
      try {
        participant.commit()
      } catch (error) {
        participant.abort()
        this.#behind.add(participant)
        if (firstError === null || isFull(firstError)) firstError = error
      }
    })
    if (firstError === null || isFull(firstError)) return
    const why = firstError instanceof Error ? firstError.message : String(firstError)
    throw new HeadraceError(
      'storage-failed',
      `A decided batch could not be committed to a file: ${why}. The journal has it; start the node again, and it is completed.`,
      { cause: firstError },
    )
  }

  /** Ends every open transaction, so that none of them holds a lock that a successor needs. */
  #abortAll(): void {
    for (const participant of [...this.#transactions.values()].flatMap(({ participants }) => participants)) {
      try {
        participant.abort()
      } catch {
        // Nothing of it is committed; closing the file ends it.
      }
    }
    this.#transactions.clear()
  }

  /** The participant, with everything that the journal has decided for it. */
  #upToDate(name: string): Participant {
    const participant = this.#participant(name)
    if (!this.#behind.has(participant)) return participant
    for (const { changes, batch } of this.#journal.redo.after(name, participant.marker() ?? 0)) participant.redo(changes, batch)
    this.#behind.delete(participant)
    return participant
  }

  /** On a full disk everything stays in the logs for now: the batch before it is decided and done. */
  #checkpointIfRoom(): void {
    try {
      this.#checkpoint()
    } catch (error) {
      if (!isFull(error)) throw error
    }
  }

  #checkpoint(): void {
    this.#batchesSinceCheckpoint = 0
    if (this.#behind.size > 0) return
    const batch = this.#journal.lastBatch
    let all = true
    for (const participant of this.#participants.values()) all = participant.checkpoint() && all
    crashPoint('checkpoint.before-drop')
    if (all) this.#journal.redo.drop(batch)
  }

  #participant(name: string): Participant {
    const participant = this.#participants.get(name)
    if (participant === undefined) throw new HeadraceError('internal', `There is no SQLite database '${name}' in this app.`)
    return participant
  }

  #open(transaction: number): Open {
    const open = this.#transactions.get(transaction)
    if (open === undefined) throw new HeadraceError('transaction-closed')
    return open
  }
}

function isFull(error: unknown): boolean {
  return HeadraceError.is(error) && error.code === 'disk-full'
}
