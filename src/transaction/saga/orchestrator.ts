/**
 * Works on runs: sagas, TCCs, three-phase commits.
 *
 *   const orchestrator = createOrchestrator({ deployment: 'shop', log, runs: [trip] })
 *   const started = await orchestrator.start(trip, 'trip-1', { person: 'ann' })
 *   const end = await started.wait()
 *
 * A run belongs to one process at a time, which it is told by the log. When the
 * process dies, another one takes the run over and goes on from its journal.
 *
 * What must hold:
 * - whatever a lost answer of the log leaves unknown is found out by claiming: a
 *   run that the log gives to this process, and this process does not know of, is
 *   claimed again;
 * - no more runs are worked on, wait in line, or are waited for than the limits say.
 */
import { setMaxListeners } from 'node:events'
import { type DiagnosticEvents, tell } from '../../contracts/diagnostics.ts'
import { HeadraceError } from '../../contracts/errors.ts'
import { runOwnerPattern, type SagaLog, type StoredRun } from '../../contracts/saga.ts'
import { backoffMs } from '../../std/backoff.ts'
import { clientName } from '../../std/client-name.ts'
import { crashPoint } from '../../std/crash-point.ts'
import { inTime, processClock, type TransactionClock } from '../clock.ts'
import { checkNames, checkWhole } from '../../contracts/bounds.ts'
import { Permits } from '../permits.ts'
import { Census } from './census.ts'
import type { RunDefinition } from './definition.ts'
import { redriveRun } from './inspect.ts'
import { newRun } from './new-run.ts'
import { checkOrchestratorOptions, type OrchestratorLimits } from './options.ts'
import type { Orchestrator, OrchestratorOptions, RunEnd, RunView, StartedRun, WaitOptions } from './orchestrator-contract.ts'
import { Ownership } from './ownership.ts'
import { errorOf, namesOf, viewOf } from './run-view.ts'
import { ParkRun, type RunError, runError, RunLeft, RunState } from './records.ts'
import { OwnedRun, type RunParts } from './run.ts'
import { Waiters } from './waiters.ts'

const listMax = 1_000

/** Starts to work at once, unless `work` is false. The log stays open when it closes. Throws 'option-unknown', 'option-invalid'. */
export function createOrchestrator(options: OrchestratorOptions): Orchestrator {
  const limits = checkOrchestratorOptions(options)
  return new LogOrchestrator(options, limits)
}

/** A run that this process works on, or that waits here for its turn. */
interface Entry {
  readonly epoch: number
  run: OwnedRun | null
  readonly leave: AbortController
  work: Promise<void>
}

class LogOrchestrator implements Orchestrator {
  readonly #deployment: string
  readonly #log: SagaLog
  readonly #definitions: ReadonlyMap<string, RunDefinition>
  readonly #limits: OrchestratorLimits
  readonly #clock: TransactionClock
  readonly #random: () => number
  readonly #works: boolean
  readonly #ownership: Ownership
  readonly #waiters: Waiters
  readonly #permits: Permits
  readonly #census: Census
  readonly #entries = new Map<string, Entry>()
  readonly #closing = new AbortController()
  readonly #over = new AbortController()
  readonly #loop: Promise<void>
  #sleep = new AbortController()
  /** When to ask the log for runs that it gave to this process, which does not know of them; null: there are none. */
  #sweepAt: number | null = null
  #logFailures = 0
  #starting = 0
  #beatAt = -Infinity
  #pruneAt: number
  #closed: Promise<void> | null = null

  constructor(options: OrchestratorOptions, limits: OrchestratorLimits) {
    const { deployment, log, runs, node, work = true, clock = processClock, random = Math.random } = options
    this.#deployment = deployment
    this.#log = log
    this.#definitions = new Map(runs.map((each) => [each.storedName, each as RunDefinition]))
    this.#limits = limits
    this.#clock = clock
    this.#random = random
    this.#works = work
    const earlier = node === undefined ? null : `${node}:`
    const owner = earlier === null ? clientName() : `${earlier}${clientName().split(':').at(-1)}`
    if (!runOwnerPattern.test(owner)) throw new HeadraceError('internal', `'${owner}' is no name of an owner.`)
    // Each run, and each waiting caller, listens.
    setMaxListeners(0, this.#closing.signal, this.#over.signal)
    this.#ownership = new Ownership(owner, limits.leaseMs, earlier)
    this.#waiters = new Waiters(log)
    this.#permits = new Permits(limits.runsMax)
    this.#census = new Census(deployment, [...this.#definitions.keys()], limits.censusMs)
    this.#pruneAt = clock.now() + limits.pruneEveryMs
    this.#loop = this.#watch()
  }

  get counts(): Orchestrator['counts'] {
    return { working: this.#permits.taken, waiting: this.#permits.waiting, waiters: this.#waiters.count }
  }

  async start<Input, Results>(definition: RunDefinition<string, Input, Results>, id: string, input: unknown): Promise<StartedRun<Results>> {
    this.#mustBeOpen()
    if (!this.#definitions.has(definition.storedName))
      throw new HeadraceError('saga-invalid', `This orchestrator does not run '${definition.storedName}': name it in runs.`)
    const { runsMax, startsMax, inputBytesMax } = this.#limits
    if (this.#works && this.#entries.size + this.#starting >= runsMax + startsMax)
      throw new HeadraceError(
        'overloaded',
        `${this.#entries.size} runs are worked on or wait here; runsMax is ${runsMax}, startsMax ${startsMax}.`,
      )
    this.#starting += 1
    try {
      const owner = this.#works ? this.#ownership.owner : ''
      const wanted = await newRun(definition as RunDefinition, this.#deployment, id, input, owner, inputBytesMax)
      crashPoint('saga.before-start')
      const { created, run } = await this.#log.start(wanted).catch((error: unknown) => {
        this.#doubt()
        throw error
      })
      crashPoint('saga.after-start')
      if (run.name !== wanted.name || run.input !== wanted.input)
        throw new HeadraceError('id-reused', `The id '${id}' is that of another run: ${run.name}, or the same with another input.`)
      if (created) this.#tell(run, 'started', null)
      if (created && this.#works) this.#take(run)
      return { id, created, wait: (waitOptions) => this.wait(definition, id, waitOptions) }
    } finally {
      this.#starting -= 1
    }
  }

  async wait<Input, Results>(
    definition: RunDefinition<string, Input, Results>,
    id: string,
    options: WaitOptions = {},
  ): Promise<RunEnd<Results>> {
    checkNames('wait', options, ['signal'])
    this.#mustBeOpen()
    if (this.#waiters.count >= this.#limits.waitersMax)
      throw new HeadraceError('overloaded', `${this.#waiters.count} callers wait for runs; waitersMax is ${this.#limits.waitersMax}.`)
    const end = new AbortController()
    const leave = (): void => end.abort(options.signal?.reason)
    const close = (): void => end.abort(new HeadraceError('stopping', 'The orchestrator is closed.'))
    if (options.signal?.aborted === true) leave()
    options.signal?.addEventListener('abort', leave, { once: true })
    this.#over.signal.addEventListener('abort', close, { once: true })
    try {
      const run = await this.#waiters.wait(id, end.signal)
      if (run === null || run.name !== definition.storedName)
        throw new HeadraceError('saga-unknown', `There is no ${definition.kind} '${definition.name}' with the id '${id}'.`)
      if (run.status !== 'completed') return { status: run.status as 'undone' | 'parked', error: errorOf(run) }
      return { status: 'completed', results: definition.results(RunState.of(await this.#log.records(id))) }
    } finally {
      options.signal?.removeEventListener('abort', leave)
      this.#over.signal.removeEventListener('abort', close)
    }
  }

  async get(id: string): Promise<RunView | null> {
    const [run] = await this.#log.read([id])
    return run === undefined ? null : viewOf(run)
  }

  async list(request: Parameters<Orchestrator['list']>[0] = {}): Promise<RunView[]> {
    checkNames('list', request, ['status', 'after', 'limit'])
    const { limit = 100, ...rest } = request
    checkWhole('limit', limit, 1, listMax)
    return (await this.#log.list({ ...rest, limit })).map(viewOf)
  }

  parked(request: { readonly after?: string; readonly limit?: number } = {}): Promise<RunView[]> {
    return this.list({ ...request, status: 'parked' })
  }

  async history(id: string): Promise<unknown[]> {
    return (await this.#log.records(id)).map((text) => JSON.parse(text) as unknown)
  }

  async redrive(id: string): Promise<boolean> {
    this.#mustBeOpen()
    if (!(await redriveRun(this.#log, id))) return false
    const [run] = await this.#log.read([id])
    if (run !== undefined) this.#tell(run, 'redriven', null)
    this.wake()
    return true
  }

  wake(): void {
    this.#sleep.abort()
  }

  async prune(): Promise<number> {
    const { retentionMs, pruneBatchMax } = this.#limits
    let pruned = 0
    for (;;) {
      const count = await this.#log.prune(Date.now() - retentionMs, pruneBatchMax)
      pruned += count
      if (count < pruneBatchMax || this.#over.signal.aborted) return pruned
    }
  }

  close(): Promise<void> {
    this.#closed ??= this.#close()
    return this.#closed
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }

  async #close(): Promise<void> {
    this.#closing.abort()
    this.wake()
    const quiet = async (): Promise<void> => {
      while (this.#entries.size > 0) await Promise.all([...this.#entries.values()].map(({ work }) => work))
    }
    for (const entry of this.#entries.values()) if (entry.run === null) entry.leave.abort()
    await inTime(this.#clock, quiet(), this.#limits.closeTimeoutMs, undefined)
    for (const entry of this.#entries.values()) this.#leaveEntry(entry, new RunLeft('closing'))
    this.#over.abort()
    await quiet()
    await this.#loop
    // Others need not wait for a sign of life then; when the log is away, they do.
    if (this.#works) await this.#log.leave(this.#ownership.owner).catch(() => undefined)
  }

  /** The one loop: signs of life, runs that nobody owns, waiting callers, old runs. */
  async #watch(): Promise<void> {
    const { pollMs, logRetryBaseMs, logRetryMaxMs } = this.#limits
    let failures = 0
    while (!this.#closing.signal.aborted) {
      // A wake that comes from here on is not missed.
      this.#sleep = new AbortController()
      let more = false
      try {
        more = await this.#look()
        failures = 0
      } catch {
        failures += 1
      }
      if (this.#closing.signal.aborted) return
      const idleMs = pollMs * (0.75 + this.#random() / 2)
      const untilSweepMs = this.#sweepAt === null ? idleMs : Math.max(1, this.#sweepAt - this.#clock.now())
      const ms =
        failures > 0 ? backoffMs(failures - 1, logRetryBaseMs, logRetryMaxMs, this.#random) : more ? 0 : Math.min(idleMs, untilSweepMs)
      await this.#clock.pause(ms, failures > 0 ? this.#closing.signal : this.#sleep.signal)
    }
  }

  /** True when there may be more to take at once. */
  async #look(): Promise<boolean> {
    const now = this.#clock.now()
    let more = false
    if (this.#works) {
      if (now - this.#beatAt >= this.#limits.beatMs) {
        const beats = await this.#log.beat(this.#ownership.owner)
        this.#beatAt = now
        for (const dead of this.#ownership.dead(beats, this.#clock.now())) await this.#log.leave(dead)
      }
      if (this.#sweepAt !== null && now >= this.#sweepAt) {
        this.#sweepAt = null
        if (await this.#claim(this.#ownership.owner)) this.#sweepAt = now
      }
      more = await this.#claim('')
    }
    await this.#waiters.ask((id) => this.#entries.has(id))
    await this.#census.tellWhenDue(this.#log, now)
    if (now >= this.#pruneAt) {
      this.#pruneAt = now + this.#limits.pruneEveryMs
      await this.prune()
    }
    return more
  }

  /** Takes runs of an owner, as many as can be worked on now. True when there may be more. */
  async #claim(from: string): Promise<boolean> {
    const { runsMax, claimBatchMax } = this.#limits
    const limit = Math.min(claimBatchMax, runsMax - this.#entries.size)
    if (limit <= 0 || this.#closing.signal.aborted) return false
    const except = from === '' ? [] : [...this.#entries.keys()]
    let claimed: StoredRun[]
    try {
      claimed = await this.#log.claim({ owner: this.#ownership.owner, from: [from], names: [...this.#definitions.keys()], limit, except })
    } catch (error) {
      this.#doubt()
      throw error
    }
    for (const run of claimed) {
      this.#tell(run, 'claimed', null)
      this.#take(run)
    }
    return claimed.length === limit
  }

  /** The log may have given this process runs that it does not know of: it asks for them, later and later while the log fails. */
  #doubt(): void {
    const { logRetryBaseMs, logRetryMaxMs } = this.#limits
    this.#sweepAt = this.#clock.now() + backoffMs(this.#logFailures, logRetryBaseMs, logRetryMaxMs, this.#random)
    this.#logFailures += 1
    this.wake()
  }

  #take(stored: StoredRun): void {
    const known = this.#entries.get(stored.id)
    if (known !== undefined) {
      if (known.epoch >= stored.epoch) return
      this.#leaveEntry(known, new RunLeft('taken'))
    }
    const entry: Entry = { epoch: stored.epoch, run: null, leave: new AbortController(), work: Promise.resolve() }
    this.#entries.set(stored.id, entry)
    if (this.#closing.signal.aborted) entry.leave.abort()
    entry.work = this.#work(stored, entry).finally(() => {
      if (this.#entries.get(stored.id) === entry) this.#entries.delete(stored.id)
    })
  }

  #leaveEntry(entry: Entry, why: RunLeft): void {
    entry.leave.abort()
    entry.run?.leave(why)
  }

  /** Never throws. */
  async #work(stored: StoredRun, entry: Entry): Promise<void> {
    if (!(await this.#permits.take(entry.leave.signal))) return
    try {
      await this.#drive(stored, entry)
    } catch (error) {
      if (!(error instanceof RunLeft)) this.#doubt()
      else if (error.why === 'log') {
        this.#doubt()
        this.#tell(stored, 'lost', runError(error.cause).code)
      } else if (error.why === 'taken') this.#tell(stored, 'lost', 'saga-taken')
    } finally {
      this.#permits.give()
    }
  }

  async #drive(stored: StoredRun, entry: Entry): Promise<void> {
    const definition = this.#definitions.get(stored.name)
    if (definition === undefined) return
    const records = stored.records === 0 ? [] : await this.#log.records(stored.id)
    if (entry.leave.signal.aborted) throw new RunLeft('closing')
    let run: OwnedRun
    try {
      run = new OwnedRun(stored, records, this.#parts())
    } catch (error) {
      const why = runError(error)
      await this.#log.append({
        id: stored.id,
        epoch: stored.epoch,
        after: stored.records,
        records: [],
        end: { status: 'parked', error: JSON.stringify(why) },
      })
      this.#ended(stored, 'parked', why)
      return
    }
    entry.run = run
    try {
      const { status, error } = await definition.drive(run)
      await run.end(status, error)
      this.#ended(stored, status, error)
    } catch (error) {
      if (error instanceof RunLeft) {
        // What is known already need not be done again by the next owner.
        if (error.why === 'closing' && !run.left.aborted) await run.flush()
        throw error
      }
      const why = error instanceof ParkRun ? error.error : { ...runError(error), code: 'internal' }
      await run.end('parked', why)
      this.#ended(stored, 'parked', why)
    }
  }

  #ended(stored: StoredRun, status: 'completed' | 'undone' | 'parked', error: RunError | null): void {
    this.#logFailures = 0
    this.#waiters.tell({ ...stored, status, owner: '', error: error === null ? null : JSON.stringify(error) })
    this.#tell(stored, status, error?.code ?? null, Math.max(0, Date.now() - stored.startedAt))
    if (status !== 'parked' || error === null) return
    const { branch, operation, code, message } = error
    tell('headrace:saga-parked', () => ({ ...namesOf(stored), branch, operation, code, message }))
  }

  #parts(): RunParts {
    const { recordsMax, resultBytesMax } = this.#limits
    return { log: this.#log, clock: this.#clock, random: this.#random, recordsMax, resultBytesMax, closing: this.#closing.signal }
  }

  #tell(run: StoredRun, event: DiagnosticEvents['headrace:saga']['event'], code: string | null, ms = 0): void {
    tell('headrace:saga', () => ({ ...namesOf(run), event, branch: '', operation: '', attempt: 0, code, ms }))
  }

  #mustBeOpen(): void {
    if (this.#closed !== null) throw new HeadraceError('stopping', 'The orchestrator is closed.')
  }
}
