/**
 * Metrics for Prometheus, made of what the parts tell of themselves
 * (contracts/diagnostics) and of the state of the app at the time of a scrape.
 *
 * Every app has a registry of its own. Names begin with `headrace_` and end
 * with the unit; label values are names of the app, never input of a caller.
 */
import { collectDefaultMetrics, Gauge, Registry } from 'prom-client'
import { type DiagnosticEvents, listen } from '../contracts/diagnostics.ts'
import type { LedgerCounts } from '../contracts/ledger.ts'
import type { AppEventName } from './app-events.ts'
import { type CacheFigures, listenToCache } from './cache-metrics.ts'
import { listenToQueues } from './queue-metrics.ts'
import { listenToSagas } from './saga-metrics.ts'
import { Counters, Histograms } from './series.ts'
import { listenToTransactions } from './transaction-metrics.ts'

export interface MetricsSource {
  readonly app: string
  readonly commands: Iterable<string>
  readonly queries: Iterable<string>
  /** Those that say how commands are applied. */
  readonly limits: { readonly lanes: number; readonly batchCommandsMax: number }
}

/** The state of an app, as its status tells it. */
export interface ObservedState {
  readonly state: string
  readonly inFlight: number
  readonly expectedWaitMs: number
  readonly counts: LedgerCounts
  readonly cache?: CacheFigures
}

export interface Metrics {
  /** For metrics of the user, beside ours. */
  readonly registry: Registry
  readonly contentType: string
  /** The text of a scrape; without a state, what only the app knows is left out, and it counts as not ready. */
  text(state: ObservedState | undefined): Promise<string>
  /** Listens no more. */
  close(): void
}

const durations = [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60]
const sizes = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096]

export function createMetrics(source: MetricsSource): Metrics {
  const registry = new Registry()
  collectDefaultMetrics({ register: registry })
  const cache = listenToCache(registry, source.app, durations)
  const closers = [
    ...listenToEvents(registry, source),
    listenToLocks(registry),
    ...listenToTransactions(registry, durations),
    ...listenToQueues(registry, durations),
    ...listenToSagas(registry, durations),
    cache.close,
  ]
  const show = stateGauges(registry)
  limitGauges(registry, source)
  return {
    registry,
    contentType: registry.contentType,
    text: (state) => {
      show(state)
      cache.show(state?.cache)
      return registry.metrics()
    },
    close: () => {
      for (const close of closers.splice(0)) close()
    },
  }
}

function listenToEvents(registry: Registry, source: MetricsSource): (() => void)[] {
  const commands = new Set(source.commands)
  const queries = new Set(source.queries)
  // A name that the app does not have comes from a caller: it gets no series of its own.
  const command = (name: string): string => (commands.has(name) ? name : 'unknown')
  const query = (name: string): string => (queries.has(name) ? name : 'unknown')
  const on = <Name extends AppEventName>(name: Name, listener: (event: DiagnosticEvents[Name]) => void): (() => void) =>
    listen(name, (event) => {
      if (event.app === source.app) listener(event)
    })

  const admissions = new Counters(
    registry,
    'headrace_admissions_total',
    'Commands at the door, by the answer they got: taken, joined, or the code of the refusal.',
    ['command', 'answer'],
  )
  const outcomes = new Counters(registry, 'headrace_outcomes_total', 'Outcomes given, repeated ones included.', ['command', 'status'])
  const rejections = new Counters(registry, 'headrace_rejections_total', 'Rejections by the rules of the app, by code.', [
    'command',
    'code',
  ])
  const repeats = new Counters(registry, 'headrace_repeated_outcomes_total', 'Outcomes that were given again to a repeated id.', [
    'command',
  ])
  const commandTime = new Histograms(
    registry,
    'headrace_command_duration_seconds',
    'Time from the door to the outcome.',
    ['command', 'status'],
    durations,
  )
  const batchSize = new Histograms(registry, 'headrace_batch_size_commands', 'Commands in a batch.', [], sizes)
  const batchTime = new Histograms(registry, 'headrace_batch_duration_seconds', 'Time to apply a batch.', [], durations)
  const phaseTime = new Histograms(
    registry,
    'headrace_batch_phase_duration_seconds',
    'Time of each phase of a batch.',
    ['phase'],
    durations,
  )
  const queueWait = new Histograms(registry, 'headrace_queue_wait_seconds', 'Wait of the oldest command of a batch.', [], durations)
  const retries = new Counters(
    registry,
    'headrace_batch_retries_total',
    'Batches that failed and were tried again: whole, split, or a command alone.',
    ['way'],
  )
  const dead = new Counters(
    registry,
    'headrace_dead_lettered_commands_total',
    'Commands that were dead-lettered, by the code of their error.',
    ['command', 'code'],
  )
  const appendTime = new Histograms(
    registry,
    'headrace_append_duration_seconds',
    'Time to put commands into the queue on disk.',
    [],
    durations,
  )
  const appended = new Counters(registry, 'headrace_appended_commands_total', 'Commands that were put into the queue on disk.', [])
  const queryTime = new Histograms(registry, 'headrace_query_duration_seconds', 'Time of a query.', ['query', 'ok'], durations)
  const recoveryTime = new Histograms(registry, 'headrace_recovery_duration_seconds', 'Time of the recovery at start.', [], durations)
  const redone = new Counters(registry, 'headrace_recovery_redone_batches_total', 'Batches that recovery brought into a database.', [])
  const notices = new Counters(registry, 'headrace_notices_total', 'Notices to the operator, by level; see the log.', ['level'])

  return [
    on('headrace:admission', (event) => admissions.add(1, command(event.command), event.answer)),
    on('headrace:outcome', (event) => {
      const name = command(event.command)
      outcomes.add(1, name, event.status)
      if (event.status === 'rejected') rejections.add(1, name, event.code ?? 'none')
      if (event.repeated) repeats.add(1, name)
      else commandTime.observe(event.ms / 1_000, name, event.status)
    }),
    on('headrace:batch', (event) => {
      batchSize.observe(event.commands)
      batchTime.observe(event.ms / 1_000)
      phaseTime.observe(event.loadMs / 1_000, 'load')
      phaseTime.observe(event.decideMs / 1_000, 'decide')
      phaseTime.observe(event.saveMs / 1_000, 'save')
      phaseTime.observe(event.commitMs / 1_000, 'commit')
      queueWait.observe(event.waitMs / 1_000)
    }),
    on('headrace:retry', (event) => retries.add(1, event.way)),
    on('headrace:dead-letter', (event) => dead.add(1, command(event.command), event.code)),
    on('headrace:append', (event) => {
      appendTime.observe(event.ms / 1_000)
      appended.add(event.commands)
    }),
    on('headrace:query', (event) => queryTime.observe(event.ms / 1_000, query(event.query), String(event.ok))),
    on('headrace:recovery', (event) => {
      recoveryTime.observe(event.ms / 1_000)
      redone.add(event.redone)
    }),
    on('headrace:notice', (event) => notices.add(1, event.level)),
  ]
}

/** Locks belong to the process, not to an app. */
function listenToLocks(registry: Registry): () => void {
  const events = new Counters(
    registry,
    'headrace_lock_events_total',
    'What happened with locks: waiting, granted, refused, released, lost.',
    ['engine', 'event'],
  )
  const wait = new Histograms(
    registry,
    'headrace_lock_wait_seconds',
    'Wait for a lock, until it was granted or refused.',
    ['engine'],
    durations,
  )
  const hold = new Histograms(
    registry,
    'headrace_lock_held_seconds',
    'Time that a lock was held, until it was released or lost.',
    ['engine'],
    durations,
  )
  const held = new Gauge({
    name: 'headrace_locks_held',
    help: 'Locks that this process holds.',
    labelNames: ['engine'],
    registers: [registry],
  })
  const waiting = new Gauge({
    name: 'headrace_lock_waiters',
    help: 'Callers of this process that wait for a lock.',
    labelNames: ['engine'],
    registers: [registry],
  })
  return listen('headrace:lock', (event) => {
    const { engine } = event
    events.add(1, engine, event.event)
    if (event.event === 'granted' || event.event === 'refused') wait.observe(event.waitMs / 1_000, engine)
    if (event.event === 'released' || event.event === 'lost') hold.observe(event.heldMs / 1_000, engine)
    held.set({ engine }, event.held)
    waiting.set({ engine }, event.waiting)
  })
}

function stateGauges(registry: Registry): (state: ObservedState | undefined) => void {
  const gauge = (name: string, help: string): Gauge => new Gauge({ name, help, registers: [registry] })
  const ready = gauge('headrace_ready', '1 while the app takes commands.')
  const known: readonly (readonly [Gauge, (state: ObservedState) => number])[] = [
    [gauge('headrace_in_flight_commands', 'Commands that callers wait for.'), (state) => state.inFlight],
    [gauge('headrace_expected_wait_seconds', 'The wait that a new command would meet.'), (state) => state.expectedWaitMs / 1_000],
    [gauge('headrace_queued_commands', 'Commands on disk that wait, the parked ones included.'), (state) => state.counts.queued],
    [gauge('headrace_queued_bytes', 'Bytes of their inputs.'), (state) => state.counts.queuedBytes],
    [gauge('headrace_parked_commands', 'Commands that wait behind a blocked key.'), (state) => state.counts.parked],
    [gauge('headrace_blocked_keys', 'Keys that are not applied for now.'), (state) => state.counts.blockedKeys],
    [gauge('headrace_waiting_events', 'Events of commands that wait to be published.'), (state) => state.counts.events],
    [gauge('headrace_stored_outcomes', 'Outcomes that are kept to answer repeated ids.'), (state) => state.counts.outcomes],
    [gauge('headrace_dead_letters', 'Dead letters that wait for an operator.'), (state) => state.counts.dead],
    [
      gauge('headrace_oldest_queued_age_seconds', 'Age of the oldest waiting command; 0 when none waits.'),
      (state) => ageSeconds(state.counts.oldestAcceptedAt),
    ],
  ]
  return (state) => {
    ready.set(state?.state === 'ready' ? 1 : 0)
    for (const [metric, read] of known) {
      if (state === undefined) metric.remove()
      else metric.set(read(state))
    }
  }
}

/** Beside what is measured, for whoever puts the two together. */
function limitGauges(registry: Registry, { limits: { lanes, batchCommandsMax } }: MetricsSource): void {
  const registers = [registry]
  new Gauge({ name: 'headrace_lanes', help: 'Loops that apply batches.', registers }).set(lanes)
  new Gauge({ name: 'headrace_batch_commands_max', help: 'Commands that one batch may have.', registers }).set(batchCommandsMax)
}

function ageSeconds(since: number | null): number {
  return since === null ? 0 : Math.max(0, Date.now() - since) / 1_000
}
