/**
 * An app: its commands and queries over its databases, and its life.
 *
 *   new → starting → ready → stopping → stopped
 *                  ↘ failed ↙            (storage failed, or another owner took over)
 */
import { type Cache, createCache } from '../cache/index.ts'
import type { DatabaseHandle } from '../contracts/database.ts'
import { tell } from '../contracts/diagnostics.ts'
import { HeadraceError } from '../contracts/errors.ts'
import type { Ledger, LedgerOptions } from '../contracts/ledger.ts'
import type { QueueEngine } from '../contracts/queue.ts'
import { Admission } from './admission.ts'
import type { App, AppStatus, DeadLetterBox, Gateway, Outcome, Receipt, StartOptions, SubmitOptions } from './app-contract.ts'
import type { AnyCommand, Command } from './command.ts'
import { checkName } from './command.ts'
import { abortable, Door } from './door.ts'
import type { EventOptions } from './event-relay.ts'
import { Lane } from './lane.ts'
import { checkedEvents, checkedQueue, databasesOf, uniqueByName } from './definition.ts'
import { type AppOptions, type ResolvedOptions, resolveOptions } from './options.ts'
import { QueryRunner } from './query-runner.ts'
import { commandTopic } from './queue/message.ts'
import { countsOf, openQueues, type Queues } from './queue/open.ts'
import type { AnyQuery, Query } from './query.ts'

/** How often outcomes past their retention are looked for, in milliseconds. */
const pruneEveryMs = 1_000

export type OpenLedger = (options: LedgerOptions) => Promise<Ledger>

export interface AppDefinition extends AppOptions {
  /** Names the app in logs and metrics. */
  readonly name: string
  readonly commands: readonly AnyCommand[]
  readonly queries?: readonly AnyQuery[]
  /** The queue that commands go through, such as `rabbitmqQueue({ url })`; without it they wait in the data directory. The app closes it. */
  readonly queue?: QueueEngine
  /** Topics that commands emit to, and the queue that has them. */
  readonly events?: EventOptions
}

interface Running {
  readonly ledger: Ledger
  readonly door: Door
  readonly lanes: readonly Lane[]
  readonly admission: Admission
  readonly queries: QueryRunner
  readonly cache: Cache
  readonly pruning: NodeJS.Timeout
  /** Set once the lanes run. */
  queues: Queues | null
}

export class HeadraceApp implements App {
  readonly kind = 'headrace-app'
  readonly name: string
  readonly gateway: Gateway
  readonly deadLetters: DeadLetterBox
  readonly #openLedger: OpenLedger
  readonly #databases: readonly DatabaseHandle[]
  #queue: QueueEngine | null
  readonly #events: EventOptions | null
  /** What still waits in the queue of an earlier start may stay there. */
  #leaveQueue = false
  #options: ResolvedOptions
  #state: AppStatus['state'] = 'new'
  #reason: HeadraceError | null = null
  #running: Running | null = null
  #opening: Promise<Running> | null = null
  #stopping: Promise<void> | null = null
  #pruneRuns = false

  constructor(definition: AppDefinition, openLedger: OpenLedger) {
    const { name, commands, queries = [], queue, events, ...options } = definition
    checkName('app', name)
    this.name = name
    this.#options = resolveOptions(options, process.env)
    this.#openLedger = openLedger
    this.#queue = queue === undefined ? null : checkedQueue(queue)
    this.#events = events === undefined ? null : checkedEvents(events)
    this.#databases = databasesOf([
      ...commands.map(({ options: { databases } }) => databases),
      ...queries.map(({ definition: { databases } }) => databases),
    ])
    const byName = { commands: uniqueByName('command', commands), queries: uniqueByName('query', queries) }
    this.gateway = {
      ...byName,
      take: async (command, input, how) => this.#door().take(command, input, how),
      outcomeState: async (command, tenant, id) => this.#door().outcomeState(command, tenant, id),
      waitForOutcome: async (command, tenant, id, signal) => this.#door().waitForOutcome(command, tenant, id, signal),
      ask: async (query, input, signal) => JSON.stringify((await this.#live().queries.ask(query, input, signal)) ?? null),
    }
    this.deadLetters = {
      list: async ({ after = 0, limit = 100 } = {}) => this.#live().ledger.deadLetters({ after, limit }),
      get: async (position) => (await this.#live().ledger.deadLetter(position)) ?? unknownDeadLetter(position),
      redrive: async (position) => {
        const { admission, ledger } = this.#live()
        const letter = await ledger.deadLetter(position)
        const { key, partition } = (await ledger.redrive(position)) ?? unknownDeadLetter(position)
        admission.queued += 1
        admission.parked += 1
        admission.queuedBytes += letter?.input.length ?? 0
        this.#laneOf(partition).hurry(key, partition)
      },
      drop: async (position) => {
        const { key, partition, blocked } = (await this.#live().ledger.drop(position)) ?? unknownDeadLetter(position)
        if (blocked) this.#laneOf(partition).hurry(key, partition)
      },
      blockedKeys: async () => this.#live().ledger.blockedKeys(),
    }
  }

  get options(): ResolvedOptions {
    return this.#options
  }

  async start({ dataDir, queue }: StartOptions = {}): Promise<void> {
    if (this.#state !== 'new') throw new HeadraceError('app-invalid', `The app '${this.name}' was started before; define a new one.`)
    if (dataDir !== undefined) this.#options = { ...this.#options, dataDir }
    if (queue !== undefined) this.#queue = queue === 'none' ? null : checkedQueue(queue)
    this.#leaveQueue = queue === 'none'
    this.#state = 'starting'
    try {
      this.#opening = this.#open()
      this.#running = await this.#opening
      // A stop that came meanwhile closes what was opened.
      if (this.#stopping === null) this.#state = 'ready'
    } catch (error) {
      this.#state = 'failed'
      this.#reason = HeadraceError.is(error) ? error : new HeadraceError('internal', String(error), { cause: error })
      throw error
    }
  }

  async stop(): Promise<void> {
    this.#stopping ??= this.#stop()
    return this.#stopping
  }

  async status(): Promise<AppStatus> {
    const running = this.#running
    const empty = { queued: 0, queuedBytes: 0, parked: 0, outcomes: 0, dead: 0, blockedKeys: 0, events: 0, oldestAcceptedAt: null }
    const inFlight = running?.admission.inFlight ?? 0
    const expectedWaitMs = running === null ? 0 : running.admission.expectedWaitMs(unqueuedOf(running.lanes))
    const counts =
      running === null || this.#state === 'failed' || this.#state === 'stopped'
        ? empty
        : await countsOf(running.ledger, running.admission, running.queues)
    return {
      state: this.#state,
      reason: this.#reason?.message ?? (this.#state === 'ready' ? null : `The app is ${this.#state}.`),
      inFlight,
      expectedWaitMs,
      counts,
      ...(running === null ? {} : { cache: running.cache.stats() }),
    }
  }

  async submit<Name extends string, Input, Output, Result, Code extends string>(
    command: Command<Name, Input, Output, Result, Code>,
    input: Input,
    options: SubmitOptions = {},
  ): Promise<Outcome<Result, Code>> {
    const ticket = await this.#door().take(command.name, input, options)
    const { body } = await abortable(ticket.outcome, options.signal)
    return JSON.parse(body) as Outcome<Result, Code>
  }

  async enqueue<Name extends string, Input, Output, Result, Code extends string>(
    command: Command<Name, Input, Output, Result, Code>,
    input: Input,
    options: SubmitOptions = {},
  ): Promise<Receipt> {
    const ticket = await this.#door().take(command.name, input, options)
    await abortable(ticket.durable(), options.signal)
    return ticket
  }

  async query<Name extends string, Input, Output, Result>(
    query: Query<Name, Input, Output, Result>,
    input: Input,
    options: { readonly signal?: AbortSignal } = {},
  ): Promise<Result> {
    return (await this.#live().queries.ask(query.name, input, options.signal)) as Result
  }

  async #open(): Promise<Running> {
    const { lanes: laneCount } = this.#options
    const queue = this.#queue
    const ledger = await this.#openLedger({
      ...this.#options,
      app: this.name,
      databases: this.#databases,
      queue: { name: queue === null ? null : `${queue.engine}, topic '${commandTopic(this.name)}'`, leave: this.#leaveQueue },
    }).catch(async (error: unknown) => {
      await Promise.all([queue?.close(), this.#events?.queue?.close()]).catch(() => undefined)
      throw error
    })
    const cache = createCache({ name: this.name, bytesMax: this.#options.cacheBytesMax })
    const admission = new Admission(this.#options)
    const topics = new Set(Object.keys(this.#events?.topics ?? {}))
    const lanes: Lane[] = []
    const laneOf = (partition: number): Lane => lanes[partition % laneCount] as Lane
    const door = new Door({
      app: this.name,
      options: this.#options,
      commands: this.gateway.commands,
      ledger,
      admission,
      laneOf,
      unqueued: () => unqueuedOf(lanes),
      feed: () => running.queues?.feed ?? null,
      closed: () => this.#closed(),
    })
    const { queued, queuedBytes, parked } = await ledger.counts()
    admission.queued = queued
    admission.queuedBytes = queuedBytes
    admission.parked = parked
    const blocked = await ledger.blockedKeys()
    for (let lane = 0; lane < laneCount; lane++) {
      lanes.push(
        new Lane({
          app: this.name,
          lane,
          lanes: laneCount,
          ledger,
          limits: this.#options,
          admission,
          position: () => door.position,
          adopt: (entry) => door.adopt(entry),
          forget: (ticket) => door.forget(ticket),
          attach: (ticket) => door.attach(ticket),
          topics,
          beforeOutcomes: ({ invalidated, version, events }) => {
            admission.events += events
            if (events > 0) running.queues?.relay?.wake()
            return letFall(cache, invalidated, version)
          },
          fail: (error) => this.#fail(error),
        }),
      )
    }
    for (const [index, lane] of lanes.entries()) {
      lane.start(
        blocked.filter(({ partition }) => partition % laneCount === index),
        queued > parked,
      )
    }
    const pruning = setInterval(() => void this.#prune(ledger), pruneEveryMs)
    pruning.unref()
    const running: Running = {
      ledger,
      door,
      lanes,
      admission,
      queries: new QueryRunner(this.name, this.gateway.queries, ledger, this.#options, cache),
      cache,
      pruning,
      queues: null,
    }
    running.queues = await this.#openQueues(queue, running, laneOf)
    return running
  }

  async #openQueues(queue: QueueEngine | null, running: Running, laneOf: (partition: number) => Lane): Promise<Queues> {
    const { door, admission, ledger } = running
    try {
      return await openQueues(queue, this.#events, ledger, {
        app: this.name,
        limits: this.#options,
        commands: this.gateway.commands,
        admission,
        laneOf,
        nextPosition: () => door.nextPosition(),
        deliver: (entry) => door.deliver(entry),
        awaited: (id, digest) => door.awaited(id, digest),
        forget: (ticket) => door.forget(ticket),
        settleKnown: (ticket) => door.settleKnown(ticket),
      })
    } catch (error) {
      clearInterval(running.pruning)
      await Promise.all(running.lanes.map((lane) => lane.stop()))
      await running.cache.close()
      await ledger.close()
      throw error
    }
  }

  /** Goes on until nothing is left to drop, so that a flood of outcomes stays within its bound; other work comes in between. */
  async #prune(ledger: Ledger): Promise<void> {
    if (this.#pruneRuns) return
    this.#pruneRuns = true
    try {
      const mayDrop = (): boolean => this.#running?.queues?.feed?.mayDropOutcomes(this.#options.outcomeRetentionMs) ?? true
      while (this.#state === 'ready' && mayDrop() && (await ledger.prune()) > 0) await new Promise(setImmediate)
    } catch (error) {
      tell('headrace:notice', () => ({ app: this.name, level: 'warn', message: `Old outcomes could not be dropped: ${String(error)}` }))
    } finally {
      this.#pruneRuns = false
    }
  }

  async #stop(): Promise<void> {
    const running = this.#running ?? (await this.#opening?.catch(() => null)) ?? null
    if (running === null) {
      this.#state = 'stopped'
      return
    }
    const failed = this.#state === 'failed'
    if (!failed) this.#state = 'stopping'
    clearInterval(running.pruning)
    const { stopTimeoutMs } = this.#options
    let timer: NodeJS.Timeout | undefined
    const late = new Promise<void>((resolve) => {
      timer = setTimeout(resolve, stopTimeoutMs)
    })
    running.queues?.feed?.stop()
    if (!failed) await Promise.race([Promise.all(running.lanes.map((lane) => lane.stop())), late])
    clearTimeout(timer)
    running.door.refuseAll(
      'stopping',
      'The node is stopping before this command was decided. If it was answered with 202, it is safe and goes on at the next start; else send it again.',
    )
    await running.queues?.close().catch((error: unknown) => {
      tell('headrace:notice', () => ({ app: this.name, level: 'warn', message: `The queue did not close cleanly: ${String(error)}.` }))
    })
    await running.cache.close()
    await running.ledger.close().catch((error: unknown) => {
      tell('headrace:notice', () => ({
        app: this.name,
        level: 'error',
        message: `The storage did not close cleanly: ${String(error)}. The next start recovers.`,
      }))
    })
    if (!failed) this.#state = 'stopped'
  }

  #fail(error: HeadraceError): void {
    if (this.#state === 'failed' || this.#state === 'stopping' || this.#state === 'stopped') return
    this.#state = 'failed'
    this.#reason = error
    tell('headrace:notice', () => ({
      app: this.name,
      level: 'error',
      message: `The app has failed and takes no more commands: ${error.message}`,
      details: { code: error.code },
    }))
    this.#running?.door.refuseAll(
      'storage-failed',
      `The storage failed before this command was known to be decided: ${error.message} Send it again with the same id after the restart.`,
    )
  }

  #closed(): HeadraceError | null {
    if (this.#state === 'ready') return null
    if (this.#state === 'stopping' || this.#state === 'stopped')
      return new HeadraceError('stopping', 'The node is stopping. Send the command again; another node or the restarted one takes it.', {
        retryAfterMs: 1_000,
      })
    if (this.#state === 'failed') return new HeadraceError('storage-failed', this.#reason?.message, { retryAfterMs: 5_000 })
    return new HeadraceError('not-ready', `The app is ${this.#state}.`, { retryAfterMs: 1_000 })
  }

  #door(): Door {
    return this.#live().door
  }

  #live(): Running {
    if (this.#state === 'stopped') throw new HeadraceError('stopping', `The app '${this.name}' is stopped.`, { retryAfterMs: 1_000 })
    if (this.#running === null)
      throw new HeadraceError('app-not-started', `The app '${this.name}' is ${this.#state}. Await app.start() first.`)
    return this.#running
  }

  #laneOf(partition: number): Lane {
    const { lanes } = this.#live()
    return lanes[partition % lanes.length] as Lane
  }
}

/** Cached answers that a batch made old fall before its outcomes go out (invariant 6): no load that began before may fill them again. */
async function letFall(cache: Cache, keys: ReadonlySet<string>, version: number): Promise<void> {
  if (keys.size === 0) return
  await cache.change([...keys].map((name) => ({ kind: 'key', name, version })))
}

function unqueuedOf(lanes: readonly Lane[]): number {
  let unqueued = 0
  for (const lane of lanes) unqueued += lane.unqueued
  return unqueued
}

function unknownDeadLetter(position: number): never {
  throw new HeadraceError('dead-letter-unknown', `There is no dead letter at position ${position}. List them: headrace dlq ls.`)
}
