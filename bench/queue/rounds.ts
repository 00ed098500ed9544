/** Rounds of the bench of the queue: publish so many, or consume so many, and throw away what is left. */
import { type Opening, perSecond } from '../harness.ts'
import { bareAmqp, type BareSettings } from './amqp.ts'
import type { BenchQueue } from './contender.ts'
import type { Shared } from './servers.ts'

interface Turn {
  readonly quick: boolean
  /** The round that is not counted. */
  readonly warm: boolean
}

/** One measurement, in messages a second. */
export type Use = (queue: BenchQueue, turn: Turn) => Promise<number>

const quickMessages = 1_000

/** Opens a contender on a server, and leaves the server with it. */
export function onServer(server: Shared, open: (url: string) => Promise<BenchQueue> | BenchQueue, use: Use): Opening {
  return async () => {
    const queue = await open(await server.enter())
    return {
      run: ({ quick, index }) => use(queue, { quick, warm: index < 0 }),
      async close() {
        await queue.close()
        await server.leave()
      },
    }
  }
}

export function publishing(count: number): Use {
  return async (queue, { quick }) => {
    const messages = quick ? quickMessages : count
    const rate = await perSecond(messages, () => queue.publish(messages))
    await queue.empty()
    return rate
  }
}

export function consuming(count: number): Use {
  return async (queue, { quick }) => {
    const messages = quick ? quickMessages : count
    if (queue.fill === undefined) await queue.publish(messages)
    else await queue.fill(messages)
    const rate = await queue.consume(messages)
    await queue.empty()
    return rate
  }
}

/** The bare client, whose best settings are found in the round that is not counted. */
export function bestBare(server: Shared, candidates: readonly BareSettings[], use: Use, message: 'same' | 'least' = 'same'): Opening {
  let settings = candidates[0] as BareSettings
  return onServer(
    server,
    (url) => bareAmqp(url, () => settings, message),
    async (queue, turn) => {
      if (!turn.warm || turn.quick) return use(queue, turn)
      // Once before, so that the first of them does not run cold.
      await use(queue, turn)
      const tried: { readonly rate: number; readonly settings: BareSettings }[] = []
      for (const candidate of candidates) {
        settings = candidate
        tried.push({ rate: await use(queue, turn), settings })
      }
      const [best] = tried.sort((a, b) => b.rate - a.rate)
      if (best === undefined) throw new Error('there is nothing to try')
      settings = best.settings
      return best.rate
    },
  )
}
