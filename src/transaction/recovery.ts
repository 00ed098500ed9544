/**
 * Ends what crashed coordinators left behind, and goes on to the end with what
 * live ones could not finish.
 *
 * For every prepared branch of the deployment that no transaction of this
 * coordinator is working on: its gid names its home; the decision there holds.
 * When there is none, 'abort' is inserted under the same primary key, so that
 * whoever inserts first decides, and only then is the branch rolled back.
 * A coordinator that is alive and was about to commit then loses its
 * transaction, whole: harmless, and rare, since branches of others get a grace.
 * Nothing that must hold rests on the grace, or on any clock.
 *
 * Decisions of others are dropped when all their branches have confirmed. But a
 * coordinator that lost its connection in the commit of home may still come and
 * ask; finding nothing, it would take its committed transaction for undone. So
 * before the first decision of an incarnation is dropped, a row that declares
 * the incarnation over is put at home, and whoever asks looks at that afterwards.
 *
 * An 'abort' that was decided for others stays: their commit may yet arrive,
 * and must find its place taken. (A row for each transaction that a crash left
 * undecided.) `isRetired` may know better.
 */
import { tell } from '../contracts/diagnostics.ts'
import { HeadraceError } from '../contracts/errors.ts'
import type { Decision, DecisionLog } from '../contracts/participant.ts'
import { crashPoint } from '../std/crash-point.ts'
import type { TransactionClock } from './clock.ts'
import type { Ending, Finisher } from './finisher.ts'
import type { Forgetter } from './forgetter.ts'
import { type GidParts, type GidSource, parseGid, retirementGid } from './gid.ts'
import type { CoordinatorLimits } from './options.ts'
import { Permits } from './permits.ts'
import type { Site } from './site.ts'

export interface RecoveredBranch {
  readonly gid: string
  readonly participant: string
  readonly end: 'committed' | 'aborted'
}

export interface RecoveryReport {
  /** Branches that this pass has ended. */
  readonly resolved: readonly RecoveredBranch[]
  /** Branches that ended otherwise than decided, by somebody's hand; what is known is in `doubts()`. */
  readonly heuristics: readonly { readonly gid: string; readonly participant: string }[]
  /** Gids of prepared branches that are left for a later pass: in their grace, or their home is away. */
  readonly waiting: readonly string[]
  /** Gids whose home is none of the databases here: somebody must connect it, or decide. */
  readonly homeless: readonly string[]
  /** Databases that did not answer, with the error. */
  readonly away: Readonly<Record<string, unknown>>
  /** Decisions whose branches have all confirmed, and that will be dropped. */
  readonly forgotten: number
  /** How long the oldest branch in doubt has been seen, in milliseconds. */
  readonly oldestMs: number
}

export interface RecoveryParts {
  readonly site: Site
  readonly limits: CoordinatorLimits
  readonly clock: TransactionClock
  readonly random: () => number
  readonly gids: GidSource
  readonly finisher: Finisher
  readonly forgetter: Forgetter
  readonly live: ReadonlySet<string>
  readonly isRetired: (coordinator: GidParts) => boolean
}

interface Pass {
  readonly resolved: RecoveredBranch[]
  readonly heuristics: { gid: string; participant: string }[]
  readonly waiting: string[]
  readonly homeless: string[]
  readonly away: Record<string, unknown>
  /** Everything in doubt that this pass has seen. */
  readonly seen: Set<string>
  forgotten: number
}

export class Recovery {
  readonly #parts: RecoveryParts
  readonly #stop = new AbortController()
  /** When a gid was first seen here, by the monotonic clock. */
  readonly #firstSeen = new Map<string, number>()
  /** When all branches of a decision had confirmed. */
  readonly #confirmed = new Map<string, number>()
  /** Decisions to abort whose branches have all confirmed: nothing is left to do. */
  readonly #keptAborts = new Set<string>()
  readonly #retired = new Set<string>()
  #wake = new AbortController()
  #running: Promise<RecoveryReport> | null = null
  #queued: Promise<RecoveryReport> | null = null
  #awayBefore: readonly string[] = []
  #loop: Promise<void> | null = null

  constructor(parts: RecoveryParts) {
    this.#parts = parts
  }

  start(): void {
    this.#loop ??= this.#run()
  }

  /** The next pass begins now. */
  soon(): void {
    this.#wake.abort()
  }

  async stop(): Promise<void> {
    this.#stop.abort()
    this.#wake.abort()
    await this.#loop
    await this.#running
  }

  /** One pass that begins after this call; callers that come meanwhile share it. */
  pass(): Promise<RecoveryReport> {
    if (this.#running === null) return this.#begin()
    this.#queued ??= this.#running.then(() => {
      this.#queued = null
      return this.#begin()
    })
    return this.#queued
  }

  #begin(): Promise<RecoveryReport> {
    const running = this.#pass().finally(() => {
      if (this.#running === running) this.#running = null
    })
    this.#running = running
    return running
  }

  async #run(): Promise<void> {
    const { clock, limits, random } = this.#parts
    while (!this.#stop.signal.aborted) {
      this.#wake = new AbortController()
      await this.pass()
      // However often databases come and go, passes do not chase each other.
      await clock.pause(limits.finishBaseMs, this.#stop.signal)
      // Spread, so that nodes that start together do not all look at once.
      await clock.pause(limits.recoveryIntervalMs * (0.75 + random() / 2), this.#wake.signal)
    }
  }

  async #pass(): Promise<RecoveryReport> {
    const { clock, finisher, limits, site } = this.#parts
    const from = clock.now()
    const pass: Pass = { resolved: [], heuristics: [], waiting: [], homeless: [], away: {}, seen: new Set(), forgotten: 0 }
    const calls = new Permits(limits.recoveryCallsMax)
    await this.#branches(pass, calls)
    await Promise.all([...site.logs.values()].map((log) => this.#decisions(log, pass, calls)))
    for (const gid of this.#firstSeen.keys()) if (!pass.seen.has(gid)) this.#firstSeen.delete(gid)
    for (const gid of this.#confirmed.keys()) if (!pass.seen.has(gid)) this.#confirmed.delete(gid)
    for (const gid of this.#keptAborts) if (!pass.seen.has(gid)) this.#keptAborts.delete(gid)
    const away = Object.keys(pass.away)
    if (this.#awayBefore.some((name) => !away.includes(name))) this.soon()
    this.#awayBefore = away
    const { seen: _, ...report } = pass
    const now = clock.now()
    const doubted = [...pass.waiting, ...pass.homeless, ...pass.heuristics.map(({ gid }) => gid)]
    const oldestMs = Math.max(0, ...doubted.map((gid) => now - (this.#firstSeen.get(gid) ?? now)))
    tell('headrace:recovery-pass', () => ({
      deployment: site.deployment,
      inDoubt: new Set(doubted).size,
      oldestMs,
      resolved: pass.resolved.length,
      heuristics: pass.heuristics.length,
      unfinished: finisher.unfinished,
      away,
      ms: now - from,
    }))
    return { ...report, oldestMs }
  }

  /** Prepared branches, of all databases side by side. */
  async #branches(pass: Pass, calls: Permits): Promise<void> {
    const { live, site } = this.#parts
    const prepared = new Map<string, string[]>()
    await Promise.all(
      [...site.participants.values()].map(async ({ name, canPrepare }) => {
        if (!canPrepare) return
        const list = await this.#asked(name, pass, () => site.participant(name).prepared(site.prefix))
        for (const { gid } of list ?? []) prepared.set(gid, [...(prepared.get(gid) ?? []), name])
      }),
    )
    await Promise.all(
      [...prepared].map(([gid, names]) =>
        calls.use(async () => {
          const parts = parseGid(gid)
          // Under our prefix, but not ours to judge.
          if (parts === null || live.has(gid) || this.#stop.signal.aborted) return
          const log = site.homeOf(parts)
          const early = this.#early(gid, parts, pass)
          if (log === null) pass.homeless.push(gid)
          else if (early) pass.waiting.push(gid)
          else await this.#resolve(gid, log, names, pass)
        }),
      ),
    )
  }

  async #resolve(gid: string, log: DecisionLog, names: readonly string[], pass: Pass): Promise<void> {
    const decision = await this.#asked(log.name, pass, () => this.#decision(gid, log, names))
    if (decision === undefined) pass.waiting.push(gid)
    if (decision === undefined || decision === null) return
    crashPoint('recovery.after-decide')
    const end = decision.verdict === 'commit' ? 'committed' : 'aborted'
    await this.#confirm({ gid, verdict: decision.verdict, participants: names, home: log.name, forgetHome: false }, pass, (participant) => {
      pass.resolved.push({ gid, participant, end })
    })
  }

  /** What holds for the gid; null when its branches have ended meanwhile. */
  async #decision(gid: string, log: DecisionLog, names: readonly string[]): Promise<Decision | null> {
    const decision = await log.decision(gid)
    if (decision !== null) return decision
    // It may have been decided, finished and dropped since the branches were listed.
    const lists = await Promise.all(names.map((name) => this.#parts.site.participant(name).prepared(gid)))
    if (!lists.some((list) => list.some((each) => each.gid === gid))) return null
    crashPoint('recovery.before-decide')
    return log.decideAbort(gid, names)
  }

  /** Ends branches as decided, side by side. True when all have confirmed. */
  async #confirm(ending: Ending, pass: Pass, onEnded: (participant: string) => void = () => undefined): Promise<boolean> {
    const { finisher, site } = this.#parts
    const { gid, verdict, participants } = ending
    const ends = await Promise.all(
      participants.map(async (participant) => {
        if (!site.participants.has(participant)) return false
        const ended = await this.#asked(participant, pass, () => finisher.endBranch(ending, participant))
        crashPoint('recovery.between-branches')
        if (ended === undefined) return false
        if (ended === 'heuristic') pass.heuristics.push({ gid, participant })
        else onEnded(participant)
        const end = ended === 'heuristic' ? 'heuristic' : verdict === 'commit' ? 'committed' : 'aborted'
        tell('headrace:recovery-branch', () => ({ deployment: site.deployment, gid, participant, end }))
        return ended === 'ended'
      }),
    )
    return ends.every(Boolean)
  }

  /** Decisions that nobody here is working on: confirms their branches, then drops them. */
  async #decisions(log: DecisionLog, pass: Pass, calls: Permits): Promise<void> {
    const { forgetter, gids, isRetired, limits, live, site } = this.#parts
    // Those that stay must not hide the ones behind them.
    const page = limits.decisionsPageMax + this.#keptAborts.size + this.#retired.size
    const decisions = (await this.#asked(log.name, pass, () => log.decisions(site.prefix, page))) ?? []
    const todo = decisions.flatMap((decision) => {
      const parts = parseGid(decision.gid)
      if (parts === null || parts.number === 0 || live.has(decision.gid) || forgetter.has(decision.gid)) return []
      return [{ decision, parts }]
    })
    await Promise.all(
      todo.map(({ decision, parts }) =>
        calls.use(async () => {
          const { gid, verdict, participants } = decision
          if (this.#early(gid, parts, pass) || this.#stop.signal.aborted) return
          const over = isRetired(parts)
          if (this.#keptAborts.has(gid) && !over) return
          const ending: Ending = { gid, verdict, participants, home: log.name, forgetHome: false }
          if (!this.#confirmed.has(gid)) {
            if (!(await this.#confirm(ending, pass))) return
            this.#confirmed.set(gid, this.#parts.clock.now())
          }
          if (verdict === 'abort' && !over) {
            this.#keptAborts.add(gid)
            return
          }
          if (!gids.made(parts) && !over) {
            // Its coordinator may be alive, and about to drop it itself.
            if (this.#parts.clock.now() - (this.#confirmed.get(gid) ?? 0) < limits.graceMs) return
            if ((await this.#asked(log.name, pass, () => this.#retire(log, parts))) === undefined) return
          }
          forgetter.add({ gid, home: log.name, participants })
          pass.forgotten += 1
        }),
      ),
    )
  }

  async #retire(log: DecisionLog, parts: GidParts): Promise<true> {
    const name = retirementGid(parts)
    if (this.#retired.has(name)) return true
    const { verdict } = await log.decideAbort(name, [])
    if (verdict !== 'abort') throw new HeadraceError('internal', `'${name}' is decided to commit.`)
    this.#retired.add(name)
    return true
  }

  /** Whether a gid of another coordinator is in its grace. */
  #early(gid: string, parts: GidParts, pass: Pass): boolean {
    const { clock, gids, isRetired, limits } = this.#parts
    const now = clock.now()
    const first = this.#firstSeen.get(gid) ?? now
    this.#firstSeen.set(gid, first)
    pass.seen.add(gid)
    return !gids.made(parts) && now - first < limits.graceMs && !isRetired(parts)
  }

  /** Undefined when the database does not answer; then the next pass asks again. */
  async #asked<T>(name: string, pass: Pass, call: () => Promise<T>): Promise<T | undefined> {
    try {
      return await call()
    } catch (error) {
      pass.away[name] = error
      return undefined
    }
  }
}
