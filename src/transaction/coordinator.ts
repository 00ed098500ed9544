/**
 * Transactions over several databases that commit in all of them or in none.
 *
 *   const coordinator = await createCoordinator({ deployment: 'shop', databases: [stock, wallet] })
 *   const left = await coordinator.transaction({ databases: { stock, wallet } }, async ({ databases }) => {
 *     await databases.stock.addMany('item', 'sku', [{ sku: 'a', left: -1 }])
 *     await databases.wallet.addMany('account', 'name', [{ name: 'ann', balance: -5 }])
 *     return …
 *   })
 *
 * It recovers by itself what it, or another process of the deployment, left
 * behind: at start, all the time, and at once when a database is back.
 */
import { AsyncLocalStorage } from 'node:async_hooks'
import { checkNames, checkWhole } from '../contracts/bounds.ts'
import { HeadraceError } from '../contracts/errors.ts'
import type { BranchEnd } from '../contracts/participant.ts'
import { backoffMs } from '../std/backoff.ts'
import { type Deferred, deferred } from '../std/deferred.ts'
import { inTime, processClock } from './clock.ts'
import type {
  BeginOptions,
  Coordinator,
  CoordinatorOptions,
  DatabasesGiven,
  Transaction,
  TransactionOptions,
} from './coordinator-contract.ts'
import { Cutoff, Deadlines } from './cutoff.ts'
import { type Doubt, type DoubtVerdict, listDoubts, resolveDoubt } from './doubts.ts'
import { Finisher } from './finisher.ts'
import { Forgetter } from './forgetter.ts'
import { checkNode, GidSource, homeless, homeTag } from './gid.ts'
import { OpenTransaction, type TransactionParts } from './global-transaction.ts'
import type { GlobalTransaction } from './global-transaction-contract.ts'
import { checkLimits, type CoordinatorLimits, coordinatorLimitTable } from './options.ts'
import { Permits } from './permits.ts'
import { chooseHome } from './planner.ts'
import { Recovery, type RecoveryReport } from './recovery.ts'
import { Settlements } from './settlements.ts'
import { openSite, type Site } from './site.ts'
import { StatsBook, type TransactionStats } from './stats.ts'
import { openFacade } from './transaction.ts'

/** Failures that another try may not meet. A lost commit is none of them: it may have happened. */
const transientCodes: ReadonlySet<string> = new Set([
  'sql-conflict',
  'sql-busy',
  'engine-unavailable',
  'engine-timeout',
  'prepare-full',
  'transaction-aborted',
])

const coordinatorNames = [
  ...['deployment', 'databases', 'logs', 'node', 'epoch', 'home', 'recovery', 'isRetired', 'clock', 'random', 'randomInt'],
  ...Object.keys(coordinatorLimitTable),
]
const beginNames = ['databases', 'fences', 'timeoutMs', 'statementTimeoutMs', 'signal', 'home']

/** Connects to the databases, which may be away, and starts recovery. */
export async function createCoordinator(options: CoordinatorOptions): Promise<Coordinator> {
  checkNames('createCoordinator', options, coordinatorNames)
  const limits = checkLimits(options)
  checkNode(options.node ?? 'n')
  if (options.epoch !== undefined) checkWhole('epoch', options.epoch, 0, Number.MAX_SAFE_INTEGER)
  const site = await openSite(options, { branchesMax: limits.transactionsMax })
  if (options.home !== undefined && !site.logs.has(options.home)) {
    await site.close()
    throw new HeadraceError('option-invalid', `home '${options.home}' keeps no decisions. Known: ${[...site.logs.keys()].join(', ')}.`, {
      details: { option: 'home' },
    })
  }
  return new SiteCoordinator(site, limits, options)
}

/** The callbacks that the running code is in. */
interface Scope {
  readonly coordinator: Coordinator
  open: boolean
  readonly outer: Scope | undefined
}

/**
 * Transactions of a coordinator that are looked at for others inside of them.
 * Following the callbacks costs every promise of the process, a quarter of a
 * small transaction, so it ends when the code that runs has shown itself.
 */
const watchedMax = 1_000

/** One for all coordinators. */
const scopes = new AsyncLocalStorage<Scope>()

function isInside(coordinator: Coordinator): boolean {
  for (let scope = scopes.getStore(); scope !== undefined; scope = scope.outer) {
    if (scope.open && scope.coordinator === coordinator) return true
  }
  return false
}

class SiteCoordinator implements Coordinator {
  readonly site: Site
  readonly #limits: CoordinatorLimits
  readonly #home: string | null
  readonly #parts: TransactionParts
  readonly #recovery: Recovery
  readonly #places: Permits
  readonly #random: () => number
  /** Ends of the transactions that run, or wait for their turn. */
  readonly #running = new Map<Cutoff, Deferred<void>>()
  readonly #deadlines: Deadlines
  #watched = 0
  #closed: Promise<void> | null = null

  constructor(site: Site, limits: CoordinatorLimits, options: CoordinatorOptions) {
    const { clock = processClock, random = Math.random, node = 'n', epoch, randomInt, home = null, isRetired = () => false } = options
    this.site = site
    this.#limits = limits
    this.#home = home
    this.#random = random
    this.#places = new Permits(limits.transactionsMax)
    this.#deadlines = new Deadlines(clock)
    const forgetter = new Forgetter(site, limits, clock)
    const finisher = new Finisher({ site, limits, clock, random, forgetter, onBack: () => this.#recovery.soon() })
    const gids = new GidSource({ deployment: site.deployment, node, epoch, ...(randomInt === undefined ? {} : { randomInt }) })
    const settlements = new Settlements(finisher)
    this.#parts = { site, limits, clock, gids, finisher, forgetter, settlements, stats: new StatsBook(), live: new Set() }
    this.#recovery = new Recovery({ site, limits, clock, random, gids, finisher, forgetter, isRetired, live: this.#parts.live })
    if (options.recovery ?? true) this.#recovery.start()
  }

  get counts(): Coordinator['counts'] {
    const { finisher, forgetter } = this.#parts
    return { running: this.#places.taken, waiting: this.#places.waiting, unfinished: finisher.unfinished, forgettable: forgetter.waiting }
  }

  async transaction<T, const Given extends DatabasesGiven = readonly string[]>(
    options: TransactionOptions<Given>,
    run: (tx: Transaction<Given>) => Promise<T>,
  ): Promise<T> {
    checkNames('transaction', options, [...beginNames, 'retriesMax'])
    if (typeof run !== 'function')
      throw new HeadraceError('option-invalid', 'transaction() needs a function: transaction(options, async (tx) => …).')
    if (isInside(this)) {
      throw new HeadraceError(
        'transaction-nested',
        'transaction() was called inside the callback of another. Use its tx, or tx.savepoint().',
      )
    }
    const { databases: given, retriesMax = this.#limits.retriesMax, timeoutMs = this.#limits.timeoutMs, ...rest } = options
    checkWhole('retriesMax', retriesMax, 0, 100)
    const keys = databaseKeys(given, [...this.site.participants.keys()])
    const databases = [...new Set(keys.values())]
    const { clock, stats } = this.#parts
    const deadline = clock.now() + timeoutMs
    for (let attempt = 0; ; attempt += 1) {
      const tx = await this.#begin(
        { ...rest, databases, timeoutMs: attempt === 0 ? timeoutMs : Math.ceil(deadline - clock.now()) },
        attempt,
      )
      const end = await this.#try(tx, keys, run as (tx: Transaction) => Promise<T>, attempt)
      if ('value' in end) {
        stats.transaction(tx.used, true, attempt, retriesMax)
        return end.value
      }
      const pauseMs = backoffMs(attempt, this.#limits.retryBaseMs, this.#limits.retryMaxMs, this.#random)
      if (!end.transient || attempt >= retriesMax || this.#closed !== null || clock.now() + pauseMs + 1 >= deadline) {
        // What the caller's own code threw says nothing about the databases.
        if (end.transient) stats.transaction(tx.used, false, attempt, retriesMax)
        throw end.error
      }
      await clock.pause(pauseMs, rest.signal)
      if (rest.signal?.aborted === true) throw rest.signal.reason
    }
  }

  begin(options: BeginOptions = {}): Promise<GlobalTransaction> {
    checkNames('begin', options, beginNames)
    return this.#begin(options, 0)
  }

  recover(): Promise<RecoveryReport> {
    return this.#recovery.pass()
  }

  ended(gid: string): Promise<BranchEnd | 'unknown'> {
    return this.#parts.settlements.end(gid)
  }

  async doubts(): Promise<Doubt[]> {
    return (await listDoubts(this.site)).filter(({ gid }) => !this.#parts.live.has(gid))
  }

  resolveDoubt(gid: string, verdict: DoubtVerdict): Promise<void> {
    return resolveDoubt(this.site, gid, verdict)
  }

  stats(): TransactionStats {
    return this.#parts.stats.read()
  }

  close(): Promise<void> {
    this.#closed ??= this.#close()
    return this.#closed
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }

  async #begin(options: BeginOptions, attempt: number): Promise<OpenTransaction> {
    const { site, limits, finisher, clock, gids } = this.#parts
    const {
      databases: names = [...site.participants.keys()],
      fences = [],
      timeoutMs = limits.timeoutMs,
      statementTimeoutMs = limits.statementTimeoutMs,
      signal,
    } = options
    checkWhole('timeoutMs', timeoutMs, 1, coordinatorLimitTable.timeoutMs.max)
    checkWhole('statementTimeoutMs', statementTimeoutMs, 1, coordinatorLimitTable.statementTimeoutMs.max)
    const participants = names.map((name) => site.participant(name))
    const wanted = options.home ?? this.#home
    if (wanted !== null && !site.logs.has(wanted)) throw new HeadraceError('option-invalid', `home '${wanted}' keeps no decisions.`)
    const others = [...site.participants.values()].filter((each) => !names.includes(each.name))
    const home = chooseHome(participants, others, wanted)
    if (this.#closed !== null) throw new HeadraceError('stopping', 'The coordinator is closed.')
    if (finisher.unfinished >= limits.unfinishedMax) {
      throw new HeadraceError(
        'decision-log-full',
        `${finisher.unfinished} transactions wait for databases that are away; unfinishedMax is ${limits.unfinishedMax}.`,
      )
    }
    if (this.#places.taken >= limits.transactionsMax && this.#places.waiting >= limits.waitersMax) {
      throw new HeadraceError(
        'overloaded',
        `${this.#places.taken} transactions run, and ${this.#places.waiting} wait; waitersMax is ${limits.waitersMax}.`,
      )
    }
    const { cutoff, over } = this.#cutoff(timeoutMs, signal)
    if (cutoff.cut || !(this.#places.takeNow() || (await this.#places.take(cutoff.signal)))) {
      over()
      throw cutoff.reason
    }
    const onEnd = (): void => {
      over()
      this.#places.give()
    }
    const gid = gids.next(home === null ? homeless : homeTag(home))
    return new OpenTransaction(this.#parts, {
      names,
      gid,
      home,
      fences,
      statementTimeoutMs,
      cutoff,
      attempt,
      onEnd,
      startedAt: clock.now(),
    })
  }

  async #try<T>(
    tx: OpenTransaction,
    keys: ReadonlyMap<string, string>,
    run: (tx: Transaction) => Promise<T>,
    attempt: number,
  ): Promise<{ readonly value: T } | { readonly error: unknown; readonly transient: boolean }> {
    const scope: Scope = { coordinator: this, open: true, outer: scopes.getStore() }
    const { cutoff } = tx
    const call = async (): Promise<T> => run(openFacade(tx, keys, attempt))
    try {
      const value = await new Promise<T>((resolve, reject) => {
        if (cutoff.cut) reject(cutoff.reason)
        cutoff.on(() => reject(cutoff.reason))
        const running = this.#watches() ? scopes.run(scope, call) : call()
        running.then(resolve, reject)
      })
      await tx.commit()
      return { value }
    } catch (error) {
      const { vote } = tx
      await tx.abort(error)
      // The caller may have wrapped what the database said, or met its consequence.
      return { error, transient: !cutoff.cut && (isTransient(error) || isTransient(vote)) }
    } finally {
      scope.open = false
    }
  }

  #watches(): boolean {
    if (this.#watched > watchedMax) return false
    this.#watched += 1
    // Another coordinator that still watches turns it on again.
    if (this.#watched > watchedMax) scopes.disable()
    return this.#watched <= watchedMax
  }

  /** Cut when time is up, the caller gives up, or the coordinator closes; until `over` is called. */
  #cutoff(timeoutMs: number, signal: AbortSignal | undefined): { readonly cutoff: Cutoff; over(): void } {
    const cutoff = new Cutoff()
    const giveUp = (): void => cutoff.now(signal?.reason)
    if (signal?.aborted === true) giveUp()
    signal?.addEventListener('abort', giveUp, { once: true })
    this.#running.set(cutoff, deferred())
    const met = this.#deadlines.add(timeoutMs, () =>
      cutoff.now(
        new HeadraceError('transaction-timeout', `The transaction did not end within ${timeoutMs} ms, and was undone everywhere.`),
      ),
    )
    const over = (): void => {
      met()
      signal?.removeEventListener('abort', giveUp)
      this.#running.get(cutoff)?.resolve()
      this.#running.delete(cutoff)
    }
    return { cutoff, over }
  }

  async #close(): Promise<void> {
    const { clock, finisher, forgetter } = this.#parts
    const until = clock.now() + this.#limits.closeTimeoutMs
    const left = (): number => Math.max(0, until - clock.now())
    await inTime(clock, this.#quiet(), left(), undefined)
    for (const cutoff of [...this.#running.keys()])
      cutoff.now(new HeadraceError('stopping', 'The coordinator was closed before the transaction ended.'))
    await this.#quiet()
    await inTime(clock, finisher.idle(), left(), undefined)
    await this.#recovery.stop()
    await finisher.stop()
    await forgetter.stop()
    await forgetter.round()
    await this.site.close()
  }

  /** Resolves when no transaction runs. */
  async #quiet(): Promise<void> {
    while (this.#running.size > 0) await Promise.all([...this.#running.values()].map((each) => each.promise))
  }
}

/** The names that the caller gives to databases, and the names of these. */
function databaseKeys(given: DatabasesGiven | undefined, all: readonly string[]): ReadonlyMap<string, string> {
  if (given === undefined) return new Map(all.map((name) => [name, name]))
  if (Array.isArray(given)) return new Map((given as readonly string[]).map((name) => [name, name]))
  return new Map(
    Object.entries(given).map(([key, each]) => [key, typeof each === 'string' ? each : (each as { readonly name: string }).name]),
  )
}

function isTransient(error: unknown): boolean {
  return HeadraceError.is(error) && transientCodes.has(error.code)
}
