/**
 * A consumer that runs: it takes the partitions of a topic that it can get, and
 * runs each under its lease until that is lost or the consumer is closed.
 *
 * States: running ⇄ paused → draining → ended.
 */
import { HeadraceError } from '../contracts/errors.ts'
import type { LeaseAnswer, QueueTopic } from '../contracts/queue.ts'
import { backoffMs, pause } from '../std/backoff.ts'
import { Dispatcher } from './dispatch.ts'
import type { ConsumerLimits } from './options.ts'
import { type BatchHandler, type ConsumerCounts, PartitionRun } from './partition-run.ts'

/** The part of `Locks` (`headrace/lock`) that gives partitions their epochs where the engine cannot. */
export interface PartitionLocks {
  tryAcquire(key: string, options: { readonly ttlMs: number }): Promise<PartitionLock | null>
}

interface PartitionLock {
  readonly token: number
  readonly signal: AbortSignal
  release(): Promise<unknown>
}

export interface ConsumptionStats extends Readonly<ConsumerCounts> {
  readonly paused: boolean
  /** The partitions that this consumer has. `held` wait for the handler or run, `parked` wait for a retry of their key. */
  readonly partitions: readonly {
    readonly partition: number
    readonly epoch: number
    readonly held: number
    readonly parked: number
    readonly prefetch: number
  }[]
}

export interface ConsumptionOptions {
  readonly topic: QueueTopic
  readonly group: string
  readonly limits: ConsumerLimits
  readonly prefetch: number | undefined
  readonly locks: PartitionLocks | null
  readonly handler: BatchHandler
  readonly random: () => number
  /** Called with errors that go on: the engine is away, a lease cannot be had. */
  readonly onError: (error: HeadraceError) => void
}

export class Consumption implements AsyncDisposable {
  readonly #options: ConsumptionOptions
  readonly #dispatcher: Dispatcher
  readonly #counts: ConsumerCounts = { handled: 0, retried: 0, dead: 0, lost: 0 }
  readonly #runs = new Set<PartitionRun>()
  readonly #stop = new AbortController()
  /** Resolves when it is closed, and none of its handlers runs any more. */
  readonly ended: Promise<void>
  #taking = 0
  #closing: Promise<void> | null = null

  constructor(options: ConsumptionOptions) {
    this.#options = options
    this.#dispatcher = new Dispatcher(options.limits.concurrency)
    this.ended = Promise.all(Array.from({ length: options.topic.partitions }, (_, partition) => this.#own(partition))).then(() => {})
  }

  /** Starts no handler and takes nothing until `resume`; keeps its partitions. Handlers that run go on. */
  pause(): void {
    this.#dispatcher.pause()
  }

  resume(): void {
    this.#dispatcher.resume()
    for (const run of this.#runs) run.nudge()
  }

  stats(): ConsumptionStats {
    const partitions = [...this.#runs].map((run) => run.state).sort((a, b) => a.partition - b.partition)
    return { ...this.#counts, paused: this.#dispatcher.paused, partitions }
  }

  /**
   * Takes nothing more, waits for the handlers that run (at most
   * `drainTimeoutMs`), acknowledges what is done, and gives the partitions
   * back. What was not begun goes to whoever takes them next.
   */
  close(): Promise<void> {
    this.#closing ??= this.#close()
    return this.#closing
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close()
  }

  async #close(): Promise<void> {
    this.#stop.abort()
    for (const run of this.#runs) run.stop()
    const late = new AbortController()
    const drained = await Promise.race([
      this.ended.then(() => true),
      pause(this.#options.limits.drainTimeoutMs, late.signal).then(() => false),
    ])
    late.abort()
    if (!drained) for (const run of this.#runs) run.abandon()
  }

  /** Has the partition whenever it can be had. */
  async #own(partition: number): Promise<void> {
    const { limits, random, onError } = this.#options
    for (let failures = 0; !this.#stop.signal.aborted; ) {
      if (this.#taking >= limits.partitionsMax) {
        await pause(limits.leaseRetryMs, this.#stop.signal)
        continue
      }
      this.#taking += 1
      let pauseMs = 0
      try {
        pauseMs = await this.#once(partition)
        failures = 0
      } catch (error) {
        const why = HeadraceError.is(error) ? error : new HeadraceError('internal', String(error), { cause: error })
        if (why.code === 'queue-closed') return
        onError(why)
        pauseMs = backoffMs(failures++, limits.retryBaseMs, limits.retryMaxMs, random)
      } finally {
        this.#taking -= 1
      }
      if (pauseMs > 0) await pause(pauseMs, this.#stop.signal)
    }
  }

  /** Takes the lease and runs it to its end. Answers how long to wait before the next try. */
  async #once(partition: number): Promise<number> {
    const { topic, group, limits, locks } = this.#options
    const retryMs = limits.leaseRetryMs * (0.5 + this.#options.random() / 2)
    const asked = { group, partition, ttlMs: limits.leaseTtlMs }
    let lock: PartitionLock | null = null
    if (locks !== null) {
      lock = await locks.tryAcquire(`queue:${topic.name}:${group}:${partition}`, { ttlMs: limits.leaseTtlMs })
      if (lock === null) return retryMs
    }
    try {
      const answer = await topic.lease(lock === null ? asked : { ...asked, epoch: lock.token })
      if (answer.state !== 'granted') return answer.state === 'held' ? Math.min(retryMs, Math.max(1, answer.endsInMs)) : retryMs
      await this.#run(answer, lock)
      return 0
    } finally {
      await lock?.release().catch(() => {})
    }
  }

  async #run({ lease }: Extract<LeaseAnswer, { readonly state: 'granted' }>, lock: PartitionLock | null): Promise<void> {
    const { topic, limits, prefetch, handler, random } = this.#options
    const run = new PartitionRun({
      topic: topic.name,
      lease,
      limits,
      prefetch,
      handler,
      dispatcher: this.#dispatcher,
      counts: this.#counts,
      random,
    })
    const lose = (): void => run.abandon()
    lock?.signal.addEventListener('abort', lose)
    this.#runs.add(run)
    if (this.#stop.signal.aborted) run.stop()
    try {
      await run.run()
    } finally {
      this.#runs.delete(run)
      lock?.signal.removeEventListener('abort', lose)
    }
  }
}
