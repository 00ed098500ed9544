/**
 * Locks on Redis against libraries that poll. `npm run bench -- lock`.
 *
 * All contenders of a comparison use one server and one process; each has
 * a connection of its own.
 */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'
import { redisLocks } from 'headrace/redis'
import { createLocks } from 'headrace/lock'
import { bench, comparison, type Opening, perSecond, recordLatencies, type Sample } from './harness.ts'
import { type BenchLocks, contenders, type OpenLocks, sharedRedis } from './lock/contenders.ts'

const sectionMs = 1
const holderTtlMs = 1_000

type Name = keyof typeof contenders
const names = Object.keys(contenders) as Name[]

function openings(
  measure: (locks: BenchLocks, redis: ReturnType<typeof sharedRedis>, quick: boolean, round: number) => Promise<Sample>,
): Record<Name, Opening> {
  const redis = sharedRedis()
  const entry = (open: OpenLocks): Opening => {
    return async () => {
      const locks = open(await redis.enter())
      return {
        run: ({ quick, index }) => measure(locks, redis, quick, index),
        async close() {
          await locks.close()
          await redis.leave()
        },
      }
    }
  }
  return Object.fromEntries(names.map((name) => [name, entry(contenders[name])])) as Record<Name, Opening>
}

/** Each caller takes and gives back keys of its own, one after the other. */
function uncontended(callers: number) {
  return comparison({
    unit: 'acquire and release/s',
    contenders: openings(async (locks, _redis, quick, round) => {
      const total = quick ? 500 : 20_000
      const latencies = recordLatencies()
      const one = async (caller: number): Promise<void> => {
        for (let turn = 0; turn < total / callers; turn++) {
          const start = performance.now()
          const give = await locks.take(`free:${round}:${caller}:${turn % 100}`)
          await give()
          latencies.record(performance.now() - start)
        }
      }
      const value = await perSecond(total, () => Promise.all(Array.from({ length: callers }, (_, caller) => one(caller))))
      return { value, ...latencies.percentiles() }
    }),
    figures: [
      { name: `uncontended, ${callers} at once`, of: 'headrace' },
      { name: `uncontended, ${callers} at once, over redis-semaphore`, ratio: ['headrace', 'redis-semaphore'], goal: { atLeast: 0.9 } },
      { name: `uncontended, ${callers} at once, over redlock-universal`, ratio: ['headrace', 'redlock-universal'], goal: { atLeast: 0.9 } },
    ],
  })
}

/** So many callers want one key, again and again, and hold it for a millisecond. */
function contended(callers: number, handOffs: number) {
  return comparison({
    unit: 'hand-offs/s',
    contenders: openings(async (locks, redis, quick, round) => {
      const total = quick ? callers * 2 : handOffs
      const key = `hot:${round}`
      const waits: number[] = []
      let done = 0
      const callsBefore = await redis.calls()
      const one = async (): Promise<void> => {
        for (let turn = 0; done < total; turn++) {
          const start = performance.now()
          const give = await locks.take(key)
          // The first turn begins without a queue; those after the last hand-off only empty it.
          if (turn > 0 && done < total) waits.push(performance.now() - start)
          done += 1
          await new Promise((resolve) => setTimeout(resolve, sectionMs))
          await give()
        }
      }
      const start = performance.now()
      await Promise.all(Array.from({ length: callers }, one))
      const value = done / ((performance.now() - start) / 1_000)
      const scripts = ((await redis.calls()) - callsBefore) / done
      waits.sort((a, b) => a - b)
      const medianMs = waits[waits.length >> 1] ?? 0
      const longestMs = waits.at(-1) ?? 0
      return {
        value,
        scripts,
        longestMs,
        longestOverMedian: longestMs / Math.max(medianMs, sectionMs),
        p50Ms: medianMs,
        p99Ms: waits[Math.floor(waits.length * 0.99)] ?? 0,
      }
    }),
    figures: [
      { name: `${callers} waiters`, of: 'headrace' },
      { name: `${callers} waiters, over redis-semaphore`, ratio: ['headrace', 'redis-semaphore'], goal: { atLeast: 1 } },
      { name: `${callers} waiters, over redlock-universal`, ratio: ['headrace', 'redlock-universal'], goal: { atLeast: 1 } },
      {
        name: `${callers} waiters, longest wait over the median`,
        of: 'headrace',
        take: 'longestOverMedian',
        unit: '×',
        goal: { atMost: 1.5 },
      },
      { name: `${callers} waiters, longest wait`, of: 'headrace', take: 'longestMs', unit: 'ms' },
      { name: `${callers} waiters, longest wait of redis-semaphore`, of: 'redis-semaphore', take: 'longestMs', unit: 'ms' },
      { name: `${callers} waiters, longest wait of redlock-universal`, of: 'redlock-universal', take: 'longestMs', unit: 'ms' },
      { name: `${callers} waiters, scripts per hand-off`, of: 'headrace', take: 'scripts', unit: 'calls', goal: { atMost: 2.005 } },
      { name: `${callers} waiters, calls per hand-off of redis-semaphore`, of: 'redis-semaphore', take: 'scripts', unit: 'calls' },
    ],
  })
}

/** A process that holds the lock is killed with SIGKILL while another waits. */
const stall = comparison({
  unit: 'ms',
  contenders: {
    headrace: async () => {
      const redis = sharedRedis()
      const url = await redis.enter()
      const locks = createLocks(redisLocks({ url }), { ttlMs: holderTtlMs })
      return {
        async run({ index }) {
          const key = `killed:${index}`
          const holder = spawn(
            process.execPath,
            ['--import', 'jiti/register', fileURLToPath(new URL('./lock/holder.ts', import.meta.url)), url, key, String(holderTtlMs)],
            { stdio: ['ignore', 'pipe', 'inherit'] },
          )
          await once(holder.stdout, 'data')
          const waiting = locks.acquire(key)
          // Queued, and past the first extension of the holder.
          await new Promise((resolve) => setTimeout(resolve, holderTtlMs / 2))
          holder.kill('SIGKILL')
          const start = performance.now()
          const lease = await waiting
          const stalledMs = performance.now() - start
          await lease.release()
          return stalledMs
        },
        async close() {
          await locks.close()
          await redis.leave()
        },
      }
    },
  },
  figures: [{ name: `stall after kill -9 of a holder (lease ${holderTtlMs} ms)`, of: 'headrace', goal: { atMost: holderTtlMs + 100 } }],
})

export default bench('lock', { comparisons: [uncontended(1), uncontended(32), contended(50, 3_000), contended(500, 4_000), stall] })
