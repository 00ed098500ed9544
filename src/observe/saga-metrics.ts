/**
 * Metrics of sagas, TCCs and three-phase commits. They belong to the process,
 * not to an app, and so have the kind and name of the definition.
 *
 * What is counted is what this process did. The gauges are of the log, and so
 * the same in every process on it: take their maximum, not their sum.
 */
import { Gauge, type Registry } from 'prom-client'
import { listen } from '../contracts/diagnostics.ts'
import { Counters, Histograms } from './series.ts'

/** From a call of a millisecond to a run of some hours. */
const runDurations = [0.01, 0.05, 0.1, 0.5, 1, 5, 10, 30, 60, 300, 900, 3_600, 14_400]

export function listenToSagas(registry: Registry, durations: readonly number[]): (() => void)[] {
  const names = ['kind', 'name']
  const step = [...names, 'step', 'operation']
  const started = new Counters(
    registry,
    'headrace_saga_started_total',
    'Runs of sagas, TCCs and three-phase commits that were started.',
    names,
  )
  const ended = new Counters(registry, 'headrace_saga_ended_total', 'Runs that ended, by how: completed, undone, parked.', [
    ...names,
    'status',
  ])
  const time = new Histograms(
    registry,
    'headrace_saga_duration_seconds',
    'Time from the start of a run to its end; that of a parked one to when it was parked.',
    [...names, 'status'],
    runDurations,
  )
  const taken = new Counters(
    registry,
    'headrace_saga_claimed_total',
    'Runs that this process took up: given free, or left by a process that died.',
    names,
  )
  const lost = new Counters(
    registry,
    'headrace_saga_lost_total',
    'Runs that this process had to leave: another one took them, or the log did not answer.',
    [...names, 'code'],
  )
  const redriven = new Counters(registry, 'headrace_saga_redriven_total', 'Parked runs that a person let go on from this process.', names)
  const turned = new Counters(
    registry,
    'headrace_saga_turned_back_total',
    'Runs that began to undo what they had done, by the step that failed.',
    [...names, 'step', 'code'],
  )
  const calls = new Counters(registry, 'headrace_saga_calls_total', 'Attempts to call a step, those that are repeated included.', step)
  const failures = new Counters(
    registry,
    'headrace_saga_call_failures_total',
    'Attempts that failed: again, when the step is called once more; for-good, when it is not.',
    [...step, 'end', 'code'],
  )
  const callTime = new Histograms(
    registry,
    'headrace_saga_call_duration_seconds',
    'Time of one attempt to call a step.',
    [...step, 'ok'],
    durations,
  )
  const gauge = (name: string, help: string): Gauge => new Gauge({ name, help, labelNames: names, registers: [registry] })
  const running = gauge('headrace_saga_running', 'Runs in the log that go on.')
  const parked = gauge('headrace_saga_parked', 'Runs in the log that are parked, and wait for a person.')
  const oldestRunning = gauge('headrace_saga_oldest_running_age_seconds', 'How long ago the oldest of the runs that go on was started.')
  const oldestParked = gauge('headrace_saga_oldest_parked_age_seconds', 'How long ago the oldest of the parked runs was started.')

  return [
    listen('headrace:saga', ({ kind, name, event, branch, operation, code, ms }) => {
      switch (event) {
        case 'started':
          return started.add(1, kind, name)
        case 'claimed':
          return taken.add(1, kind, name)
        case 'lost':
          return lost.add(1, kind, name, code ?? 'none')
        case 'redriven':
          return redriven.add(1, kind, name)
        case 'turned':
          return turned.add(1, kind, name, branch, code ?? 'none')
        case 'call':
          return calls.add(1, kind, name, branch, operation)
        case 'called':
          return callTime.observe(ms / 1_000, kind, name, branch, operation, 'true')
        case 'retry':
        case 'failed':
          callTime.observe(ms / 1_000, kind, name, branch, operation, 'false')
          return failures.add(1, kind, name, branch, operation, event === 'retry' ? 'again' : 'for-good', code ?? 'none')
        case 'completed':
        case 'undone':
        case 'parked':
          time.observe(ms / 1_000, kind, name, event)
          return ended.add(1, kind, name, event)
      }
    }),
    listen('headrace:saga-census', ({ runs }) => {
      for (const { kind, name, status, count, oldestMs } of runs) {
        const labels = { kind, name }
        ;(status === 'running' ? running : parked).set(labels, count)
        ;(status === 'running' ? oldestRunning : oldestParked).set(labels, oldestMs / 1_000)
      }
    }),
  ]
}
