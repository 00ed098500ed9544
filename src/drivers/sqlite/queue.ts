/**
 * A message queue in a SQLite file, for the processes of one machine. Not on a
 * network file system.
 *
 * Group commit: calls that are made while the last group was on its way to the
 * disk go into the next one together, in the order in which they were made, in
 * one transaction. A group that keeps messages commits with `synchronous=FULL`;
 * one that only moves on (leases, acknowledgements) with NORMAL, since what a
 * power cut takes from those is delivered again.
 *
 * It runs on the caller's thread. A worker would free the event loop during the
 * fsync (about 0.2 ms a group), and cost a message to it and back for each
 * batch, which is what a batch costs here; the write path has its own journal
 * on a worker.
 *
 * An fsync that fails ends the engine: the kernel has marked the pages clean, so
 * that a later one would succeed and say nothing about them. Whoever opens the
 * file again begins with what is there.
 *
 * Messages of other processes are noticed by `pragma data_version`, asked every
 * `pollMs` while somebody waits; those of this process at once.
 */
import { DatabaseSync, type DatabaseSyncInstance, type StatementSyncInstance } from '@photostructure/sqlite'
import { checkWhole } from '../../contracts/bounds.ts'
import { HeadraceError } from '../../contracts/errors.ts'
import {
  type Appended,
  checkQueueName,
  checkTopic,
  type LeaseAnswer,
  type LeaseOptions,
  leaseTtlMsMax,
  leaseTtlMsMin,
  type NewMessage,
  type QueueCapabilities,
  type QueueEngine,
  type QueueTopic,
  type TopicOptions,
  topicUnknown,
} from '../../contracts/queue.ts'
import { backoffMs, pause } from '../../std/backoff.ts'
import { type Deferred, deferred } from '../../std/deferred.ts'
import { sqliteError } from './errors.ts'
import { type LeaseHost, placeOf, SqliteLease } from './queue-lease.ts'
import { queueFormat, queueSchema, queueUpgrade } from './queue-schema.ts'
import { QueueStore, type TopicRow } from './queue-store.ts'

export interface SqliteQueueOptions {
  /** Path of the file; it is made when it is missing, its folder is not. Use a file of its own. */
  readonly file: string
  /** Longest time for one call, in milliseconds: how long it tries while other processes write. Default: 5000. */
  readonly timeoutMs?: number
  /** How often a consumer that waits looks for messages of other processes, in milliseconds. Default: 2. */
  readonly pollMs?: number
  /** Memory for pages of the file, in KiB. Default: 16384. */
  readonly cacheKiB?: number
}

export const sqliteQueueCapabilities: QueueCapabilities = Object.freeze({
  leases: true,
  stablePositions: true,
  delays: true,
  dedupes: true,
  exactBounds: true,
  remembersTopics: true,
  pauses: true,
  gaps: true,
})

/** How long the thread itself waits for another process, in milliseconds; longer waits leave the event loop free. */
const busyMs = 5
const retryBaseMs = 1
const retryMaxMs = 20
/** SQLITE_IOERR_FSYNC and SQLITE_IOERR_DIR_FSYNC. */
const syncFailures = [1_034, 1_290]
/** Calls in one group. */
const groupCallsMax = 4_096

/** Partitions whose waiting consumers a step concerns. */
type Touches = ReadonlySet<string> | 'all' | 'none'

interface Step {
  readonly run: () => unknown
  readonly durable: boolean
  readonly touches: Touches
  readonly answer: Deferred<unknown>
}

/** A message queue in a SQLite file: `createQueue({ engine: sqliteQueue({ file }) })`. */
export function sqliteQueue(options: SqliteQueueOptions): QueueEngine {
  return new SqliteQueueEngine(options)
}

class SqliteQueueEngine implements QueueEngine, LeaseHost {
  readonly engine = 'sqlite'
  readonly capabilities = sqliteQueueCapabilities
  readonly store: QueueStore
  readonly #file: string
  readonly #timeoutMs: number
  readonly #pollMs: number
  readonly #database: DatabaseSyncInstance
  readonly #version: StatementSyncInstance
  /** Who waits, and for which partition. */
  readonly #waiting = new Map<() => void, string>()
  #steps: Step[] = []
  #flushing = false
  #poll: NodeJS.Timeout | null = null
  #seenVersion = 0
  #full = true
  /** Why nothing is written any more. */
  #failed: HeadraceError | null = null
  #closed = false

  constructor(options: SqliteQueueOptions) {
    const { file, timeoutMs = 5_000, pollMs = 2, cacheKiB = 16_384, ...unknown } = options
    if (typeof file !== 'string' || file === '' || file === ':memory:' || file.includes('\0'))
      throw new HeadraceError('option-invalid', 'file must be the path of a SQLite file.')
    const [odd] = Object.keys(unknown)
    if (odd !== undefined)
      throw new HeadraceError('option-unknown', `sqliteQueue has no option '${odd}'. Known: file, timeoutMs, pollMs, cacheKiB.`)
    checkWhole('timeoutMs', timeoutMs, 10, 60_000)
    checkWhole('pollMs', pollMs, 1, 60_000)
    checkWhole('cacheKiB', cacheKiB, 64, 16 * 1024 ** 2)
    this.#file = file
    this.#timeoutMs = timeoutMs
    this.#pollMs = pollMs
    this.#database = open(file, cacheKiB)
    this.#version = this.#database.prepare('pragma data_version')
    this.store = new QueueStore(this.#database)
  }

  get closed(): boolean {
    return this.#closed
  }

  async declare(options: TopicOptions): Promise<QueueTopic> {
    checkTopic(options)
    return new SqliteTopic(this, await this.step(true, () => this.store.declare(options)))
  }

  async open(name: string): Promise<QueueTopic> {
    checkQueueName('topic', name)
    const topic = this.read(() => this.store.topic(name))
    if (topic === null) throw topicUnknown(name)
    return new SqliteTopic(this, topic)
  }

  async topics(): Promise<string[]> {
    return this.read(() => this.store.topics())
  }

  async close(): Promise<void> {
    if (this.#closed) return
    this.#closed = true
    for (const wake of this.#waiting.keys()) wake()
    if (this.#poll !== null) clearInterval(this.#poll)
    for (const { answer } of this.#steps.splice(0)) answer.reject(queueClosed())
    try {
      this.#database.close()
    } catch (error) {
      throw sqliteError(this.#file, error)
    }
  }

  /** Runs a step in the next group. `durable`: it resolves when it is on disk, and wakes those who wait for what it touches. */
  step<T>(durable: boolean, run: () => T, touches: Touches = durable ? 'all' : 'none'): Promise<T> {
    if (this.#closed) return Promise.reject(queueClosed())
    if (this.#failed !== null) return Promise.reject(this.#failed)
    const answer = deferred<unknown>()
    this.#steps.push({ run, durable, touches, answer })
    if (!this.#flushing) {
      this.#flushing = true
      setImmediate(() => void this.#flush())
    }
    return answer.promise as Promise<T>
  }

  /** Reads what is committed. */
  read<T>(run: () => T): T {
    if (this.#closed) throw queueClosed()
    try {
      return run()
    } catch (error) {
      throw sqliteError(this.#file, error)
    }
  }

  /** Calls back when something may have been appended to the partition, or the engine is closed; returns the way to stop. */
  watch(wake: () => void, place: string): () => void {
    this.#waiting.set(wake, place)
    this.#poll ??= setInterval(() => this.#look(), this.#pollMs)
    return () => {
      this.#waiting.delete(wake)
      if (this.#waiting.size > 0 || this.#poll === null) return
      clearInterval(this.#poll)
      this.#poll = null
    }
  }

  #look(): void {
    try {
      const { data_version: version } = this.#version.get() as { data_version: number }
      if (version === this.#seenVersion) return
      this.#seenVersion = version
    } catch {
      // Another process holds the file for a moment; next time.
      return
    }
    for (const wake of this.#waiting.keys()) wake()
  }

  async #flush(): Promise<void> {
    const deadline = performance.now() + this.#timeoutMs
    for (let attempt = 0; this.#steps.length > 0; ) {
      const group = this.#steps.splice(0, groupCallsMax)
      try {
        this.#commit(group)
        attempt = 0
      } catch (error) {
        const ours = sqliteError(this.#file, error)
        if (ours.code === 'sql-busy' && performance.now() < deadline && !this.#closed) {
          this.#steps.unshift(...group)
          await pause(backoffMs(attempt++, retryBaseMs, retryMaxMs))
          continue
        }
        const why =
          ours.code === 'sql-busy'
            ? new HeadraceError('engine-timeout', `Other processes wrote to ${this.#file} for ${this.#timeoutMs} ms without a gap.`)
            : ours
        for (const { answer } of group) answer.reject(why)
        if (syncFailures.includes(Number(ours.details?.['sqliteCode']))) this.#fail(ours)
      }
      // What the answers set off comes into the next group.
      if (this.#steps.length === 0) await new Promise((resolve) => setImmediate(resolve))
    }
    this.#flushing = false
  }

  #fail(why: HeadraceError): void {
    this.#failed = why
    for (const { answer } of this.#steps.splice(0)) answer.reject(why)
  }

  #commit(group: readonly Step[]): void {
    if (this.#closed) throw queueClosed()
    this.#synchronous(group.some(({ durable }) => durable))
    this.#database.exec('begin immediate')
    const done: (() => void)[] = []
    try {
      for (const { run, answer } of group) {
        try {
          const value = run()
          done.push(() => answer.resolve(value))
        } catch (error) {
          // A refusal of ours has written nothing; anything else ends the group.
          if (!HeadraceError.is(error)) throw error
          done.push(() => answer.reject(error))
        }
      }
      this.#database.exec('commit')
    } catch (error) {
      if (this.#database.isTransaction) this.#database.exec('rollback')
      throw error
    }
    for (const tell of done) tell()
    this.#wakeFor(group)
  }

  /** Who is woken looks at its partition, which costs more than the append of a message: only those that it concerns. */
  #wakeFor(group: readonly Step[]): void {
    const places = new Set<string>()
    let all = false
    for (const { touches } of group) {
      if (touches === 'all') all = true
      else if (touches !== 'none') for (const place of touches) places.add(place)
    }
    for (const [wake, place] of this.#waiting) if (all || places.has(place)) wake()
  }

  #synchronous(full: boolean): void {
    if (full === this.#full) return
    this.#database.exec(`pragma synchronous = ${full ? 'full' : 'normal'}`)
    this.#full = full
  }
}

class SqliteTopic implements QueueTopic {
  readonly name: string
  readonly partitions: number
  readonly #engine: SqliteQueueEngine
  readonly #row: TopicRow

  constructor(engine: SqliteQueueEngine, row: TopicRow) {
    this.name = row.name
    this.partitions = row.partitions
    this.#engine = engine
    this.#row = row
  }

  append(messages: readonly NewMessage[]): Promise<Appended[]> {
    const { store } = this.#engine
    const touched = new Set(messages.map(({ partition }) => placeOf(this.#row.n, partition)))
    const keep = (): Appended[] => {
      // Read in the same transaction: another process may have set it anew.
      const topic = store.topic(this.name)
      if (topic === null) throw topicUnknown(this.name)
      return store.append(topic, topic.messages_max, messages, Date.now())
    }
    return this.#engine.step(true, keep, touched)
  }

  async lease(options: LeaseOptions): Promise<LeaseAnswer> {
    checkQueueName('group', options.group)
    checkWhole('partition', options.partition, 0, this.partitions - 1)
    checkWhole('ttlMs', options.ttlMs, leaseTtlMsMin, leaseTtlMsMax)
    if (options.epoch !== undefined) checkWhole('epoch', options.epoch, 1, Number.MAX_SAFE_INTEGER)
    const answer = await this.#engine.step(false, () => this.#engine.store.lease(this.#row, options), 'all')
    if (answer.state !== 'granted') return answer
    return { state: 'granted', lease: new SqliteLease(this.#engine, this.#row, options, answer) }
  }

  async groups(): Promise<string[]> {
    return this.#engine.read(() => this.#engine.store.groups(this.#row))
  }

  async counts(group: string): ReturnType<QueueTopic['counts']> {
    return this.#engine.read(() => this.#engine.store.counts(this.#row, group))
  }

  async peek(group: string, partition: number, limit: number): ReturnType<QueueTopic['peek']> {
    return this.#engine.read(() => this.#engine.store.peek(this.#row, group, partition, limit))
  }

  async deadLetters(query: Parameters<QueueTopic['deadLetters']>[0]): ReturnType<QueueTopic['deadLetters']> {
    return this.#engine.read(() => this.#engine.store.deadLetters(this.#row, query))
  }

  redrive({ group, letters, limit }: Parameters<QueueTopic['redrive']>[0]): Promise<number> {
    return this.#engine.step(true, () => this.#engine.store.redrive(this.#row, group, letters, limit))
  }

  drop({ group, letters }: Parameters<QueueTopic['drop']>[0]): Promise<number> {
    return this.#engine.step(true, () => this.#engine.store.drop(this.#row, group, letters))
  }

  purge(group: string): Promise<number> {
    return this.#engine.step(true, () => this.#engine.store.purge(this.#row, group))
  }

  setPaused(group: string, paused: boolean): Promise<void> {
    return this.#engine.step(true, () => this.#engine.store.setPaused(this.#row, group, paused))
  }

  async isPaused(group: string): Promise<boolean> {
    return this.#engine.read(() => this.#engine.store.isPaused(this.#row, group))
  }
}

const queueClosed = (): HeadraceError => new HeadraceError('queue-closed', 'The queue is closed: do not use it after close().')

function open(file: string, cacheKiB: number): DatabaseSyncInstance {
  try {
    const database = new DatabaseSync(file)
    // Setting up waits longer: several processes may begin at once.
    database.exec('pragma busy_timeout = 5000')
    const { user_version: format } = database.prepare('pragma user_version').get() as { user_version: number }
    if (format !== 0 && format !== queueFormat - 1 && format !== queueFormat) {
      database.close()
      throw new HeadraceError(
        'data-version',
        `The queue in ${file} has format ${format}; this Headrace reads format ${queueFormat}. Use the version of Headrace that made it.`,
      )
    }
    database.exec('pragma journal_mode = wal; pragma synchronous = full')
    database.exec('begin immediate')
    // Another process may have upgraded it meanwhile.
    const { user_version: now } = database.prepare('pragma user_version').get() as { user_version: number }
    if (now === queueFormat - 1) database.exec(queueUpgrade)
    database.exec(`${queueSchema}; pragma user_version = ${queueFormat}; commit`)
    database.exec(`pragma busy_timeout = ${busyMs}; pragma cache_size = -${cacheKiB}`)
    return database
  } catch (error) {
    throw sqliteError(file, error)
  }
}
