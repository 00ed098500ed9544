import { afterEach, describe, expect, test } from 'vitest'
import { tell } from '../contracts/diagnostics.ts'
import { createMetrics, type Metrics } from './metrics.ts'

const open: Metrics[] = []
afterEach(() => {
  for (const metrics of open.splice(0)) metrics.close()
})

function metricsOf(app: string): Metrics {
  const metrics = createMetrics({ app, commands: ['order.buy'], queries: ['stock.left'], limits: { lanes: 2, batchCommandsMax: 512 } })
  open.push(metrics)
  return metrics
}

const counts = { queued: 7, queuedBytes: 700, parked: 1, outcomes: 5, dead: 2, blockedKeys: 1, events: 4, oldestAcceptedAt: null }
const state = { state: 'ready', inFlight: 3, expectedWaitMs: 250, counts }

async function sampleOf(metrics: Metrics, series: string): Promise<number | undefined> {
  const line = (await metrics.text(state)).split('\n').find((text) => text.startsWith(`${series} `))
  return line === undefined ? undefined : Number(line.slice(series.length + 1))
}

describe('what the node holds now is a gauge', () => {
  test('events that wait to be published among it', async () => {
    expect(await sampleOf(metricsOf('a'), 'headrace_waiting_events')).toBe(4)
  })
})

describe('what happens is counted', () => {
  test('by command and outcome, with the time in seconds', async () => {
    const metrics = metricsOf('a')
    tell('headrace:admission', () => ({ app: 'a', command: 'order.buy', answer: 'taken' }))
    tell('headrace:outcome', () => ({ app: 'a', command: 'order.buy', status: 'rejected', code: 'sold-out', ms: 20, repeated: false }))
    tell('headrace:outcome', () => ({ app: 'a', command: 'order.buy', status: 'rejected', code: 'sold-out', ms: 900, repeated: true }))
    expect(await sampleOf(metrics, 'headrace_admissions_total{command="order.buy",answer="taken"}')).toBe(1)
    expect(await sampleOf(metrics, 'headrace_outcomes_total{command="order.buy",status="rejected"}')).toBe(2)
    expect(await sampleOf(metrics, 'headrace_rejections_total{command="order.buy",code="sold-out"}')).toBe(2)
    expect(await sampleOf(metrics, 'headrace_repeated_outcomes_total{command="order.buy"}')).toBe(1)
    expect(await sampleOf(metrics, 'headrace_command_duration_seconds_count{command="order.buy",status="rejected"}')).toBe(1)
    expect(await sampleOf(metrics, 'headrace_command_duration_seconds_sum{command="order.buy",status="rejected"}')).toBeCloseTo(0.02)
  })

  test('by batch, with its phases', async () => {
    const metrics = metricsOf('a')
    tell('headrace:batch', () => ({ app: 'a', commands: 100, ms: 10, loadMs: 1, decideMs: 2, saveMs: 3, commitMs: 4, waitMs: 5 }))
    expect(await sampleOf(metrics, 'headrace_batch_size_commands_sum')).toBe(100)
    expect(await sampleOf(metrics, 'headrace_batch_duration_seconds_sum')).toBeCloseTo(0.01)
    expect(await sampleOf(metrics, 'headrace_batch_phase_duration_seconds_sum{phase="commit"}')).toBeCloseTo(0.004)
    expect(await sampleOf(metrics, 'headrace_queue_wait_seconds_sum')).toBeCloseTo(0.005)
  })

  test('by trouble: retries, dead letters, appends, queries, recoveries, notices', async () => {
    const metrics = metricsOf('a')
    tell('headrace:retry', () => ({ app: 'a', commands: 4, way: 'split', error: null }))
    tell('headrace:dead-letter', () => ({
      app: 'a',
      command: 'order.buy',
      key: 'k',
      id: 'i',
      position: 1,
      code: 'handler-failed',
      message: 'm',
    }))
    tell('headrace:append', () => ({ app: 'a', commands: 12, ms: 1 }))
    tell('headrace:query', () => ({ app: 'a', query: 'stock.left', ms: 1, ok: false }))
    tell('headrace:recovery', () => ({ app: 'a', queued: 3, redone: 2, ms: 9 }))
    tell('headrace:notice', () => ({ app: 'a', level: 'warn', message: 'm' }))
    expect(await sampleOf(metrics, 'headrace_batch_retries_total{way="split"}')).toBe(1)
    expect(await sampleOf(metrics, 'headrace_dead_lettered_commands_total{command="order.buy",code="handler-failed"}')).toBe(1)
    expect(await sampleOf(metrics, 'headrace_appended_commands_total')).toBe(12)
    expect(await sampleOf(metrics, 'headrace_query_duration_seconds_count{query="stock.left",ok="false"}')).toBe(1)
    expect(await sampleOf(metrics, 'headrace_recovery_redone_batches_total')).toBe(2)
    expect(await sampleOf(metrics, 'headrace_notices_total{level="warn"}')).toBe(1)
  })

  test('by lock and engine, with what is held now', async () => {
    const metrics = metricsOf('a')
    const lock = { engine: 'memory', key: 'k', waitMs: 40, heldMs: 0, held: 1, waiting: 2 } as const
    tell('headrace:lock', () => ({ ...lock, event: 'granted' }))
    tell('headrace:lock', () => ({ ...lock, event: 'lost', heldMs: 70, held: 0, waiting: 1 }))
    expect(await sampleOf(metrics, 'headrace_lock_events_total{engine="memory",event="lost"}')).toBe(1)
    expect(await sampleOf(metrics, 'headrace_lock_wait_seconds_sum{engine="memory"}')).toBeCloseTo(0.04)
    expect(await sampleOf(metrics, 'headrace_lock_held_seconds_sum{engine="memory"}')).toBeCloseTo(0.07)
    expect(await sampleOf(metrics, 'headrace_locks_held{engine="memory"}')).toBe(0)
    expect(await sampleOf(metrics, 'headrace_lock_waiters{engine="memory"}')).toBe(1)
  })
})

test('names of commands that a caller made up share one series', async () => {
  const metrics = metricsOf('a')
  for (let number = 0; number < 100; number++)
    tell('headrace:admission', () => ({ app: 'a', command: `made-up-${number}`, answer: 'command-unknown' }))
  expect(await sampleOf(metrics, 'headrace_admissions_total{command="unknown",answer="command-unknown"}')).toBe(100)
  expect(await metrics.text(state)).not.toContain('made-up')
})

test('two apps in one process do not count for each other, and a closed one counts no more', async () => {
  const a = metricsOf('a')
  const b = metricsOf('b')
  tell('headrace:append', () => ({ app: 'b', commands: 5, ms: 1 }))
  expect(await sampleOf(a, 'headrace_appended_commands_total')).toBeUndefined()
  expect(await sampleOf(b, 'headrace_appended_commands_total')).toBe(5)
  b.close()
  tell('headrace:append', () => ({ app: 'b', commands: 5, ms: 1 }))
  expect(await sampleOf(b, 'headrace_appended_commands_total')).toBe(5)
})

test('the state of the app is read at the time of the scrape, and unknown is not ready', async () => {
  const metrics = metricsOf('a')
  expect(await sampleOf(metrics, 'headrace_ready')).toBe(1)
  expect(await sampleOf(metrics, 'headrace_queued_commands')).toBe(7)
  expect(await sampleOf(metrics, 'headrace_expected_wait_seconds')).toBe(0.25)
  expect(await sampleOf(metrics, 'headrace_oldest_queued_age_seconds')).toBe(0)
  const unknown = await metrics.text(undefined)
  expect(unknown).toContain('\nheadrace_ready 0\n')
  expect(unknown).not.toMatch(/\nheadrace_queued_commands \d/)
})

test('every metric of ours has the prefix, and the process tells of itself too', async () => {
  const metrics = metricsOf('a')
  const names = (await metrics.registry.getMetricsAsJSON()).map(({ name }) => name)
  expect(names.filter((name) => !/^(headrace|process|nodejs)_/.test(name))).toEqual([])
  expect(names).toContain('process_cpu_seconds_total')
})
