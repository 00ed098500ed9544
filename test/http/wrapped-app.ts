/** The real app with a fault or a delay put in at one place of its gateway. */
import type { App, Gateway, Receipt } from '../../src/index.ts'
import { deferred } from '../../src/std/deferred.ts'

export function withGateway(app: App, changes: Partial<Gateway>): App {
  const gateway = { ...app.gateway, ...changes }
  return new Proxy(app, {
    get(target, name) {
      if (name === 'gateway') return gateway
      const value: unknown = Reflect.get(target, name, target)
      return typeof value === 'function' ? value.bind(target) : value
    },
  })
}

/** Receipts whose durable() waits until the test lets it. */
export function delayDurable(app: App): { wrapped: App; durableAsked: Promise<void>; letDurable: () => void } {
  const asked = deferred<void>()
  const gate = deferred<void>()
  const wrapped = withGateway(app, {
    take: async (command, input, options) => {
      const receipt = await app.gateway.take(command, input, options)
      const delayed: Receipt = {
        id: receipt.id,
        key: receipt.key,
        partition: receipt.partition,
        durable: async () => {
          asked.resolve()
          await receipt.durable()
          await gate.promise
        },
        get outcome() {
          return receipt.outcome
        },
      }
      return delayed
    },
  })
  return { wrapped, durableAsked: asked.promise, letDurable: () => gate.resolve() }
}
