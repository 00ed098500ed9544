import { Registry } from 'prom-client'
import { afterEach, describe, expect, test } from 'vitest'
import { type DiagnosticEvents, tell } from '../contracts/diagnostics.ts'
import { listenToSagas } from './saga-metrics.ts'

const closers: (() => void)[] = []
afterEach(() => {
  for (const close of closers.splice(0)) close()
})

function listening(): () => Promise<string[]> {
  const registry = new Registry()
  closers.push(...listenToSagas(registry, [0.1, 1]))
  return async () => (await registry.metrics()).split('\n')
}

type SagaEvent = DiagnosticEvents['headrace:saga']
const trip = { kind: 'saga', name: 'trip', id: 'trip-1', branch: '', operation: '', attempt: 0, code: null, ms: 0 } as const
const say = (event: SagaEvent['event'], more: Partial<SagaEvent> = {}): void => tell('headrace:saga', () => ({ ...trip, event, ...more }))
const flight = { branch: 'flight', operation: 'do', attempt: 1 } as const

describe('sagas are counted', () => {
  test('from their start to their end, by how they ended, with their time in seconds', async () => {
    const lines = listening()
    say('started')
    say('started')
    say('turned', { branch: 'hotel', operation: 'do', code: 'full' })
    say('completed', { ms: 20 })
    say('undone', { ms: 7_000, code: 'full' })
    say('parked', { code: 'saga-failed' })
    say('redriven')
    say('claimed')
    say('lost', { code: 'saga-taken' })
    expect(await lines()).toEqual(
      expect.arrayContaining([
        'headrace_saga_started_total{kind="saga",name="trip"} 2',
        'headrace_saga_turned_back_total{kind="saga",name="trip",step="hotel",code="full"} 1',
        'headrace_saga_ended_total{kind="saga",name="trip",status="completed"} 1',
        'headrace_saga_ended_total{kind="saga",name="trip",status="undone"} 1',
        'headrace_saga_ended_total{kind="saga",name="trip",status="parked"} 1',
        'headrace_saga_duration_seconds_sum{kind="saga",name="trip",status="undone"} 7',
        'headrace_saga_redriven_total{kind="saga",name="trip"} 1',
        'headrace_saga_claimed_total{kind="saga",name="trip"} 1',
        'headrace_saga_lost_total{kind="saga",name="trip",code="saga-taken"} 1',
      ]),
    )
  })

  test('by the calls of their steps: tried, failed and repeated, failed for good, with the time of each', async () => {
    const lines = listening()
    for (const attempt of [1, 2, 3]) say('call', { ...flight, attempt })
    say('retry', { ...flight, ms: 50, code: 'saga-step-timeout' })
    say('called', { ...flight, ms: 500 })
    say('failed', { ...flight, ms: 450, code: 'sold-out' })
    const labels = 'kind="saga",name="trip",step="flight",operation="do"'
    expect(await lines()).toEqual(
      expect.arrayContaining([
        `headrace_saga_calls_total{${labels}} 3`,
        `headrace_saga_call_failures_total{${labels},end="again",code="saga-step-timeout"} 1`,
        `headrace_saga_call_failures_total{${labels},end="for-good",code="sold-out"} 1`,
        `headrace_saga_call_duration_seconds_count{${labels},ok="true"} 1`,
        `headrace_saga_call_duration_seconds_sum{${labels},ok="false"} 0.5`,
      ]),
    )
  })

  test('in the log: how many go on and are parked, and the age of the oldest, until they are gone', async () => {
    const lines = listening()
    const census = (running: number, oldestMs: number): void =>
      tell('headrace:saga-census', () => ({
        deployment: 'shop',
        runs: [
          { kind: 'saga', name: 'trip', status: 'running', count: running, oldestMs },
          { kind: 'saga', name: 'trip', status: 'parked', count: 2, oldestMs: 90_000 },
        ],
      }))
    census(5, 61_500)
    expect(await lines()).toEqual(
      expect.arrayContaining([
        'headrace_saga_running{kind="saga",name="trip"} 5',
        'headrace_saga_oldest_running_age_seconds{kind="saga",name="trip"} 61.5',
        'headrace_saga_parked{kind="saga",name="trip"} 2',
        'headrace_saga_oldest_parked_age_seconds{kind="saga",name="trip"} 90',
      ]),
    )
    census(0, 0)
    expect(await lines()).toEqual(
      expect.arrayContaining([
        'headrace_saga_running{kind="saga",name="trip"} 0',
        'headrace_saga_oldest_running_age_seconds{kind="saga",name="trip"} 0',
      ]),
    )
  })
})
