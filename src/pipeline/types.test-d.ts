/** What a user's editor knows: inputs, results, rejection codes and databases, from the definition to the answer. */
import { describe, expectTypeOf, it } from 'vitest'
import { z } from 'zod'
import { sqlite } from '../drivers/sqlite/index.ts'
import {
  type App,
  type Applied,
  accept,
  type Command,
  command,
  type Database,
  type DatabaseHandle,
  defineApp,
  type Outcome,
  query,
  type ReadDatabase,
  reject,
  type Submitted,
} from '../index.ts'

const stock = sqlite('stock')
const orders = sqlite('orders')
declare const app: App

const buy = command('order.buy', {
  input: z.object({ sku: z.string(), quantity: z.int().default(1) }),
  key: (order) => {
    expectTypeOf(order).toEqualTypeOf<{ sku: string; quantity: number }>()
    return order.sku
  },
  databases: { stock, orders },
  invalidates: (order) => [`stock:${order.sku}`],
  async load(batch, databases) {
    expectTypeOf(batch).toEqualTypeOf<readonly Submitted<{ sku: string; quantity: number }>[]>()
    expectTypeOf(databases).toEqualTypeOf<{ readonly stock: Database; readonly orders: Database }>()
    return { left: new Map<string, number>() }
  },
  decide(state, order, submitted) {
    expectTypeOf(state).toEqualTypeOf<{ left: Map<string, number> }>()
    expectTypeOf(order).toEqualTypeOf<{ sku: string; quantity: number }>()
    expectTypeOf(submitted.id).toEqualTypeOf<string>()
    if (order.quantity > 5) return reject('too-many')
    if (!state.left.has(order.sku)) return reject('sold-out', 'none left')
    return accept({ orderId: submitted.id, left: 3 })
  },
  async save(state, accepted, databases) {
    expectTypeOf(state.left).toEqualTypeOf<Map<string, number>>()
    expectTypeOf(accepted).toEqualTypeOf<readonly Applied<{ sku: string; quantity: number }, { orderId: string; left: number }>[]>()
    await databases.stock.updateMany('stock', 'sku', [])
    // @ts-expect-error wallet is no database of this command
    await databases.wallet.updateMany('wallet', 'id', [])
  },
})

const pay = command('wallet.pay', {
  input: z.object({ amount: z.coerce.number() }),
  key: () => 'all',
  databases: { purse: stock },
  async run({ input, databases, id, signal }) {
    expectTypeOf(input).toEqualTypeOf<{ amount: number }>()
    expectTypeOf(databases).toEqualTypeOf<{ readonly purse: Database }>()
    expectTypeOf(id).toEqualTypeOf<string>()
    expectTypeOf(signal).toEqualTypeOf<AbortSignal>()
    // @ts-expect-error stock is named purse here
    void databases.stock
    if (input.amount < 0) return reject('negative')
    return accept({ balance: input.amount })
  },
})

describe('a load / decide / save command', () => {
  it('knows its name, input, output, result and rejection codes', () => {
    expectTypeOf(buy).toExtend<
      Command<
        'order.buy',
        { sku: string; quantity?: number | undefined },
        { sku: string; quantity: number },
        { orderId: string; left: number },
        'too-many' | 'sold-out'
      >
    >()
  })

  it('answers with its own result or one of its own codes', () => {
    const answer = app.submit(buy, { sku: 'a' })
    expectTypeOf(answer).resolves.toEqualTypeOf<Outcome<{ orderId: string; left: number }, 'too-many' | 'sold-out'>>()
    void answer.then((outcome) => {
      if (outcome.status === 'committed') expectTypeOf(outcome.result.orderId).toEqualTypeOf<string>()
      else if (outcome.status === 'rejected') expectTypeOf(outcome.code).toEqualTypeOf<'too-many' | 'sold-out'>()
      else expectTypeOf(outcome.detail).toEqualTypeOf<string>()
      // @ts-expect-error only a committed command has a result
      void outcome.result
    })
  })

  it('takes nothing but its own input', () => {
    void app.submit(buy, { sku: 'a', quantity: 2 })
    // @ts-expect-error the sku is missing
    void app.submit(buy, { quantity: 2 })
    // @ts-expect-error a sku is a text
    void app.submit(buy, { sku: 7 })
    // @ts-expect-error there is no such field
    void app.submit(buy, { sku: 'a', colour: 'red' })
    // @ts-expect-error enqueue takes the same
    void app.enqueue(buy, {})
    // @ts-expect-error there is no such option
    void app.submit(buy, { sku: 'a' }, { ids: 'x' })
  })

  it('needs all three handlers, and a key that is a text or a number', () => {
    const input = z.object({ sku: z.string() })
    // @ts-expect-error save is missing
    command('a', { input, key: ({ sku }) => sku, load: () => 1, decide: () => accept() })
    // @ts-expect-error both forms at once
    command('a', { input, key: ({ sku }) => sku, run: () => accept(), load: () => 1, decide: () => accept(), save: () => undefined })
    // @ts-expect-error a key is no object
    command('a', { input, key: (given) => given, run: () => accept() })
    // @ts-expect-error there is no such field in the input
    command('a', { input, key: ({ id }) => id, run: () => accept() })
  })

  it('must decide at once, with a decision', () => {
    const rest = { input: z.object({}), key: () => 'k', load: () => 1, save: () => undefined }
    // @ts-expect-error a promise is no decision
    command('a', { ...rest, decide: async () => accept() })
    // @ts-expect-error neither is a bare result
    command('a', { ...rest, decide: () => ({ orderId: 1 }) })
  })
})

describe('a run command', () => {
  it('knows its input as it is sent, and as the schema makes it', () => {
    expectTypeOf(pay).toExtend<Command<'wallet.pay', { amount: unknown }, { amount: number }, { balance: number }, 'negative'>>()
    expectTypeOf(app.submit(pay, { amount: '5' })).resolves.toEqualTypeOf<Outcome<{ balance: number }, 'negative'>>()
  })

  it('without databases has none', () => {
    command('a', {
      input: z.object({}),
      key: () => 'k',
      run: ({ databases }) => {
        expectTypeOf<keyof typeof databases>().toEqualTypeOf<never>()
        return accept()
      },
    })
  })

  it('that never rejects has no codes, and one without a result has null', () => {
    const plain = command('a', { input: z.object({}), key: () => 'k', run: () => accept() })
    expectTypeOf(app.submit(plain, {})).resolves.toEqualTypeOf<Outcome<null, never>>()
  })

  it('takes databases of any engine, and nothing else', () => {
    command('a', { input: z.object({}), key: () => 'k', databases: { stock }, run: () => accept() })
    // @ts-expect-error a name is no database
    command('a', { input: z.object({}), key: () => 'k', databases: { stock: 'stock' }, run: () => accept() })
  })
})

describe('a query', () => {
  const left = query('stock.left', {
    input: z.object({ sku: z.string(), least: z.coerce.number().optional() }),
    key: ({ sku }) => `stock:${sku}`,
    databases: { stock },
    load: async ({ sku, least }, databases) => {
      expectTypeOf(sku).toEqualTypeOf<string>()
      expectTypeOf(least).toEqualTypeOf<number | undefined>()
      expectTypeOf(databases).toEqualTypeOf<{ readonly stock: ReadDatabase }>()
      // @ts-expect-error a query only reads
      void databases.stock.insertMany
      return { sku, left: 3 }
    },
  })

  it('knows its input and its answer', () => {
    expectTypeOf(app.query(left, { sku: 'a' })).resolves.toEqualTypeOf<{ sku: string; left: number }>()
    // @ts-expect-error the sku is missing
    void app.query(left, {})
  })
})

describe('a database', () => {
  it('keeps its name in its type', () => {
    expectTypeOf(stock).toExtend<DatabaseHandle<'stock'>>()
    // @ts-expect-error there is no such option
    sqlite('a', { path: 'x' })
  })

  it('gives rows of the type that is asked for', () => {
    const read = (database: ReadDatabase) => database.selectIn<{ sku: string; left: number }>('stock', 'sku', ['a'])
    expectTypeOf(read).returns.resolves.toEqualTypeOf<{ sku: string; left: number }[]>()
    // @ts-expect-error a list is no value
    const write = (database: Database) => database.insertMany('t', [{ a: [1] }])
    void write
  })
})

describe('an app', () => {
  it('takes commands and queries of any types, and only options that exist', () => {
    expectTypeOf(defineApp({ name: 'shop', commands: [buy, pay], batchCommandsMax: 5 })).toEqualTypeOf<App>()
    // @ts-expect-error there is no such option
    defineApp({ name: 'shop', commands: [], batchComandsMax: 5 })
    // @ts-expect-error a query is no command
    defineApp({ name: 'shop', commands: [query('a', { input: z.object({}), load: () => 1 })] })
  })
})
