/**
 * One global transaction, from its first statement to its end.
 *
 *   open ──commit()──> committing ─ prepare ─ decide ─┬─> ended: committed, phase 2 goes on
 *     │                     │                         ├─> ended: aborted
 *     └──abort()────────────┴── any vote to abort ────┴─> ended: unknown, until home answers
 *
 * What must hold:
 * - nothing is decided before every branch that wrote is prepared, but for the
 *   one whose commit carries the decision;
 * - phase 2 begins only when the decision is durable;
 * - once the decision may be on its way nothing but home tells how it ended;
 * - every wait is side by side, and every promise is waited for.
 */
import type { Database } from '../contracts/database.ts'
import { tell } from '../contracts/diagnostics.ts'
import { HeadraceError } from '../contracts/errors.ts'
import type { BranchEnd, Decision, Fence } from '../contracts/participant.ts'
import { crashPoint } from '../std/crash-point.ts'
import { Branches } from './branches.ts'
import { inTime, type TransactionClock } from './clock.ts'
import type { Cutoff } from './cutoff.ts'
import { decideOwn } from './decide.ts'
import type { Finisher } from './finisher.ts'
import type { Forgetter } from './forgetter.ts'
import type { GidSource } from './gid.ts'
import type { CommitOptions, CommitReceipt, GlobalTransaction, PreparedTransaction } from './global-transaction-contract.ts'
import type { CoordinatorLimits } from './options.ts'
import { type Plan, planCommit, type Protocol } from './planner.ts'
import type { Settlements } from './settlements.ts'
import type { Site } from './site.ts'
import type { Failure, StatsBook } from './stats.ts'

/** What the coordinator shares with its transactions. */
export interface TransactionParts {
  readonly site: Site
  readonly limits: CoordinatorLimits
  readonly clock: TransactionClock
  readonly gids: GidSource
  readonly finisher: Finisher
  readonly forgetter: Forgetter
  readonly settlements: Settlements
  readonly stats: StatsBook
  /** Gids of transactions under way here: recovery leaves them alone. */
  readonly live: Set<string>
}

export interface TransactionStart {
  readonly names: readonly string[]
  readonly gid: string
  readonly home: string | null
  readonly fences: readonly Fence[]
  readonly statementTimeoutMs: number
  /** Cut at the deadline, or when the caller gives up; its reason is thrown. */
  readonly cutoff: Cutoff
  readonly attempt: number
  readonly startedAt: number
  /** The transaction does not run any more: another may have its place. */
  readonly onEnd: () => void
}

export class OpenTransaction implements GlobalTransaction {
  readonly gid: string
  readonly home: string | null
  readonly names: readonly string[]
  readonly #parts: TransactionParts
  readonly #start: TransactionStart
  readonly #branches: Branches
  /** Ends statements under way. Never fired once a decision may be on its way. */
  readonly #breaker = new AbortController()
  readonly #startedAt: number
  #state: 'open' | 'committing' | 'ended' = 'open'
  #prepareMs = 0
  #decideMs = 0
  #ending: Promise<void> | null = null
  /** Branches that end by themselves no more: prepared, or committed. */
  readonly #beyond = new Set<string>()
  /** Phase 2, when it was begun by whoever asked how the commit ended. */
  #finishing: Promise<boolean> | null = null

  constructor(parts: TransactionParts, start: TransactionStart) {
    this.#parts = parts
    this.#start = start
    this.gid = start.gid
    this.home = start.home
    this.names = start.names
    this.#startedAt = start.startedAt
    const { gid, fences, statementTimeoutMs } = start
    this.#branches = new Branches(parts.site, { gid, fences, statementTimeoutMs, signal: this.#breaker.signal }, start.names)
    parts.live.add(gid)
    start.cutoff.on(this.#onDeadline)
  }

  /** The first statement that failed, and has not been undone by a savepoint. */
  get vote(): unknown {
    return this.#branches.vote?.error
  }

  /** Cut at the deadline, or when the caller gives up. */
  get cutoff(): Cutoff {
    return this.#start.cutoff
  }

  /** The databases that were used so far. */
  get used(): string[] {
    return this.#branches.all().map((branch) => branch.participant)
  }

  database(name: string): Database {
    return this.#branches.database(name)
  }

  client(name: string): Promise<unknown> {
    return this.#branches.client(name)
  }

  async savepoint(): Promise<void> {
    this.#mustBeOpen()
    await this.#branches.savepoint()
  }

  async rollbackToSavepoint(): Promise<void> {
    this.#mustBeOpen()
    await this.#branches.rollbackToSavepoint()
  }

  async releaseSavepoint(): Promise<void> {
    this.#mustBeOpen()
    await this.#branches.releaseSavepoint()
  }

  async check(): Promise<void> {
    this.#mustBeOpen()
    await this.#branches.check()
  }

  explain(): Plan {
    const { site } = this.#parts
    const branches = this.#branches.all().map(({ participant, wrote }) => {
      const { name, canPrepare, canDecide } = site.participant(participant)
      return { name, wrote, canPrepare, canDecide }
    })
    return planCommit({ branches, home: this.home, externalHome: this.home !== null && site.isExternal(this.home) })
  }

  async commit<T = undefined>({ decide }: CommitOptions<T> = {}): Promise<CommitReceipt<T>> {
    this.#mustBeOpen()
    this.#state = 'committing'
    await this.#branches.close()
    const plan = this.explain()
    const { vote } = this.#branches
    if (vote !== null) throw await this.#undone(vote.error, plan, [{ participant: vote.participant, kind: 'statement' }])
    if (plan.protocol === 'unavailable')
      throw await this.#undone(new HeadraceError('protocol-unavailable', plan.reasons.join(' ')), plan, [])
    const external = this.home !== null && this.#parts.site.isExternal(this.home)
    if (external !== (decide !== undefined)) {
      const message = external
        ? `${this.home} keeps the decision outside of the databases: give commit() a decide function.`
        : 'decide() needs a log outside of the databases as home: begin({ home }).'
      throw await this.#undone(new HeadraceError('option-invalid', message), plan, [])
    }
    await this.#prepare(plan)
    const decided = await this.#decide(plan, decide)
    const { finished, finishing } = await this.#finish(plan)
    return { gid: this.gid, plan, decided, finished, finishing }
  }

  async abort(cause?: unknown): Promise<void> {
    if (this.#state === 'open') {
      this.#state = 'committing'
      const plan = this.explain()
      const vote = this.#branches.vote
      this.#ending = this.#undone(cause, plan, vote === null ? [] : [{ participant: vote.participant, kind: 'statement' }]).then(
        () => undefined,
      )
    }
    await this.#ending
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.abort()
  }

  readonly #onDeadline = (): void => {
    const { reason } = this.#start.cutoff
    this.#breaker.abort(reason)
    // Nobody may be there to do it: a transaction that was begun by hand and left.
    void this.abort(reason)
  }

  #mustBeOpen(): void {
    if (this.#state === 'open') return
    if (this.#start.cutoff.cut) throw this.#start.cutoff.reason
    throw new HeadraceError('transaction-closed', `The transaction '${this.gid}' has ended, or is being committed.`)
  }

  /** Phase 1. Throws when a branch votes to abort; then everything is undone. */
  async #prepare(plan: Plan): Promise<void> {
    const { clock } = this.#parts
    const from = clock.now()
    crashPoint('transaction.before-prepare')
    if (plan.prepare.length === 0 && !this.#start.cutoff.cut) return
    const votes = await Promise.allSettled(
      plan.prepare.map(async (name) => {
        await this.#branches.get(name)?.prepare()
        this.#beyond.add(name)
        crashPoint('transaction.between-prepares')
      }),
    )
    this.#prepareMs = clock.now() - from
    const failures = votes.flatMap((vote, index): Failure[] =>
      vote.status === 'rejected' ? [{ participant: plan.prepare[index] as string, kind: 'prepare' }] : [],
    )
    const no = votes.find((vote) => vote.status === 'rejected')
    if (no !== undefined) throw await this.#undone(await this.#whyRefused(no.reason), plan, failures, true)
    if (this.#start.cutoff.cut) throw await this.#undone(this.#start.cutoff.reason, plan, [], true)
  }

  /** Returns only when 'commit' is durable. */
  async #decide<T>(plan: Plan, decide: CommitOptions<T>['decide']): Promise<T | undefined> {
    const { clock, site } = this.#parts
    // From here on a deadline does not end anything any more.
    this.#start.cutoff.off(this.#onDeadline)
    const from = clock.now()
    const prepared: PreparedTransaction = { gid: this.gid, participants: plan.prepare }
    const decision: Decision = { ...prepared, verdict: 'commit', decidedAt: Date.now() }
    let decided: T | undefined
    crashPoint('transaction.before-decision')
    try {
      if (decide !== undefined) decided = await decide(prepared)
      else if (plan.protocol === 'one-phase') await this.#branches.get(plan.commit as string)?.commit()
      else if (plan.home !== null) await (await this.#branches.begin(plan.home)).commit(decision)
      if (decide === undefined) this.#beyond.add(plan.commit ?? plan.home ?? '')
    } catch (error) {
      const culprit = plan.commit ?? plan.home
      const failures: Failure[] = culprit !== null && site.participants.has(culprit) ? [{ participant: culprit, kind: 'commit' }] : []
      const unknown = HeadraceError.is(error) && error.code === 'transaction-unknown'
      if (!unknown) throw await this.#undone(decide === undefined ? await this.#whyRefused(error) : error, plan, failures, true)
      // Without a branch to end there is no decision to ask for: the caller's own commit is all there is.
      if (decide !== undefined && plan.prepare.length === 0) throw await this.#undone(error, plan, [])
      await this.#settle(plan, error, failures)
    }
    crashPoint('transaction.after-decision')
    this.#decideMs = clock.now() - from
    return decided
  }

  /** Finds out how a commit ended whose connection was lost. Returns when it committed. */
  async #settle(plan: Plan, cause: unknown, failures: readonly Failure[]): Promise<void> {
    const { clock, limits, settlements } = this.#parts
    const settling = settlements.start(this.gid, () => this.#ask(plan))
    const end = await inTime(clock, settling, limits.settleWaitMs, 'unknown' as const)
    if (end === 'committed') {
      this.#beyond.add(plan.commit ?? plan.home ?? '')
      return
    }
    await this.#branches.abort(this.#beyond)
    if (end === 'aborted') {
      const lost = new HeadraceError('engine-unavailable', 'The connection was lost in the commit, and nothing of it is true.', { cause })
      throw this.#told(lost, plan, 'aborted', failures)
    }
    const unknown = new HeadraceError(
      'transaction-unknown',
      `It is not known yet how '${this.gid}' ended. Recovery finds out when '${plan.commit ?? plan.home}' is back.`,
      { details: { gid: this.gid, home: plan.home, participants: plan.prepare }, cause },
    )
    throw this.#told(unknown, plan, 'unknown', failures)
  }

  /** Asks until there is an answer, and ends the branches by it. */
  async #ask(plan: Plan): Promise<BranchEnd | 'unknown'> {
    const { finisher, forgetter, gids, site } = this.#parts
    if (plan.protocol === 'one-phase') {
      const name = plan.commit as string
      const end = await finisher.insist(() => site.participant(name).settle(this.gid))
      if (end === null) return 'unknown'
      if (end === 'committed') forgetter.add({ gid: this.gid, home: null, participants: [name] })
      this.#parts.live.delete(this.gid)
      return end
    }
    const log = plan.home === null ? undefined : site.logs.get(plan.home)
    const verdict = log === undefined ? null : await finisher.insist(() => decideOwn(log, this.gid, plan.prepare))
    if (verdict === null) return 'unknown'
    if (verdict === 'lost') gids.renew()
    const ended = finisher.finish({
      gid: this.gid,
      verdict: verdict === 'commit' ? 'commit' : 'abort',
      participants: plan.prepare,
      home: plan.home,
      forgetHome: verdict === 'commit',
    })
    this.#finishing = ended
    void ended.then(() => this.#parts.live.delete(this.gid))
    return verdict === 'commit' ? 'committed' : verdict === 'abort' ? 'aborted' : 'unknown'
  }

  /** Phase 2: waits for it, but not for ever. */
  async #finish(plan: Plan): Promise<Pick<CommitReceipt<unknown>, 'finished' | 'finishing'>> {
    const { clock, finisher, forgetter, limits, live } = this.#parts
    const alone = plan.protocol === 'one-phase' || plan.prepare.length === 0
    if (plan.commit !== null && alone) forgetter.add({ gid: this.gid, home: null, participants: [plan.commit] })
    const finishing = alone
      ? Promise.resolve(true)
      : (this.#finishing ??
        finisher.finish({ gid: this.gid, verdict: 'commit', participants: plan.prepare, home: plan.home, forgetHome: true }))
    void finishing.then(() => live.delete(this.gid))
    const [finished] = await Promise.all([
      alone ? finishing : inTime(clock, finishing, limits.phase2WaitMs, false),
      this.#branches.abort(this.#beyond),
    ])
    this.#told(null, plan, 'committed', [])
    return { finished, finishing }
  }

  /** Undoes every branch, and returns the error to throw. `prepared`: branches of the plan may be prepared. */
  async #undone(error: unknown, plan: Plan, failures: readonly Failure[], prepared = false): Promise<unknown> {
    const { clock, finisher, limits, live } = this.#parts
    this.#breaker.abort(error)
    await this.#branches.abort(this.#beyond)
    // A prepare whose answer was lost may have happened, and its branch is not undone by its connection.
    const names = prepared ? plan.prepare : []
    const ending =
      names.length === 0
        ? Promise.resolve(true)
        : finisher.finish({ gid: this.gid, verdict: 'abort', participants: names, home: plan.home, forgetHome: plan.home !== null })
    void ending.then(() => live.delete(this.gid))
    if (names.length > 0) await inTime(clock, ending, limits.phase2WaitMs, false)
    return this.#told(error, plan, 'aborted', failures)
  }

  /** Says it plainly when recovery of another process was first; the engines only see a conflict. */
  async #whyRefused(error: unknown): Promise<unknown> {
    const log = this.home === null ? undefined : this.#parts.site.logs.get(this.home)
    const decision = await log?.decision(this.gid).catch(() => null)
    if (decision?.verdict !== 'abort') return error
    return new HeadraceError('transaction-aborted', undefined, { details: { gid: this.gid }, cause: error })
  }

  #told<E>(error: E, plan: Plan, end: 'committed' | 'aborted' | 'unknown', failures: readonly Failure[]): E {
    this.#state = 'ended'
    this.#start.cutoff.off(this.#onDeadline)
    const { clock, site, stats } = this.#parts
    const { used } = this
    const protocol: Protocol | null = plan.protocol === 'unavailable' ? null : plan.protocol
    stats.attempt(used, protocol, end, failures, end === 'aborted' && failures.length === 0)
    tell('headrace:transaction', () => ({
      deployment: site.deployment,
      gid: this.gid,
      protocol: plan.protocol,
      end,
      branches: plan.prepare.length + (plan.commit === null ? 0 : 1),
      databases: used,
      attempt: this.#start.attempt,
      failures: failures.map(({ participant, kind }) => ({ database: participant, kind })),
      prepareMs: this.#prepareMs,
      decideMs: this.#decideMs,
      ms: clock.now() - this.#startedAt,
      code: HeadraceError.is(error) ? error.code : error === null || error === undefined ? null : 'handler-failed',
    }))
    this.#start.onEnd()
    return error
  }
}
