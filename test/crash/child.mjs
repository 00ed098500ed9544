/**
 * The process that the crash tests kill: a small app on three databases,
 * driven over lines of JSON. They are SQLite files, but for those that `places`
 * names: these are on servers, and the test has made their tables.
 *
 *   in   { n, do: 'submit' | 'enqueue', command, input, id }
 *        { n, do: 'redrive' | 'drop', position }   { n, do: 'dead' | 'status' | 'stop' }
 *   out  { ready: true } or { refused: code, message, details }   once, first
 *        { n, durable: true }        the command would survive a crash
 *        { n, outcome: body }        the stored document, byte for byte
 *        { n, error: code, message, known }   what the node knows of the command after a refusal
 *        { n, answer: … }
 *        { retried: code }           a batch meets this and is tried again
 *
 * Lines go out by synchronous writes: what the parent reads before the end of
 * the stream is exactly what this process has said before it died.
 *
 * Plain JavaScript on the built package, since Node 20 runs no TypeScript.
 * `dist` names the build to run; the planted faults are copies of it.
 */
import { existsSync, writeSync } from 'node:fs'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { pathToFileURL } from 'node:url'

const {
  dist,
  dataDir,
  skus,
  unitsPerSku,
  buyers,
  balancePerBuyer,
  price,
  creditMax,
  extraSchema = '',
  places = {},
  queue,
} = JSON.parse(process.argv[2])
const load = (file) => import(new URL(file, pathToFileURL(`${dist}/`)).href)
const { accept, command, defineApp, reject } = await load('index.js')
const { sqlite } = await load('drivers/sqlite/index.js')
const { listen } = await load('contracts/diagnostics.js')

/** A SQLite file, unless it has a place on a server. */
const databaseOf = async (name, options) => {
  const url = places[name]
  if (url === undefined) return sqlite(name, options)
  if (url.startsWith('postgres:')) return (await load('drivers/postgres/index.js')).postgres(name, { url })
  return (await load('drivers/mysql/index.js')).mysql(name, { url })
}

const seed = (table, names, value) => names.map((name) => `insert or ignore into ${table} values ('${name}', ${value});`).join('\n')

const stock = await databaseOf('stock', {
  // The trigger is counted by the checks: a redo that fires it would count twice.
  schema: `
    create table if not exists stock (sku text primary key not null, units integer not null);
    create table if not exists movement (sku text primary key not null, units integer not null);
    create trigger if not exists moved after update of units on stock begin
      update movement set units = units + old.units - new.units where sku = new.sku;
    end;
    ${seed('stock', skus, unitsPerSku)}
    ${seed('movement', skus, 0)}`,
})
const orders = await databaseOf('orders', {
  // Nothing here stops a second row of the same id: that is what the checks look for.
  schema: `create table if not exists effect (
    seq integer primary key, position integer not null, id text not null, command text not null, key text not null,
    sender text not null, number integer not null, sku text, buyer text not null, units integer not null, money integer not null);
    ${extraSchema}`,
})
const wallet = await databaseOf('wallet', {
  schema: `create table if not exists wallet (buyer text primary key not null, balance integer not null); ${seed('wallet', buyers, balancePerBuyer)}`,
})
const databases = { stock, orders, wallet }

/** Any plain data, taken as it is. */
const input = { '~standard': { version: 1, vendor: 'crash-tests', validate: (value) => ({ value }) } }

const healed = () => existsSync(join(dataDir, 'healed'))
const failIfPoisoned = (place, marked) => {
  if (marked === place && !healed()) throw new Error(`poisoned in ${place}`)
}
const effectOf = ({ id, key, position, input: { sku = null, buyer, sender, number } }, name, units, money) => ({
  position,
  id,
  command: name,
  key,
  sender,
  number,
  sku,
  buyer,
  units,
  money,
})

/** load / decide / save: units out of the stock, money out of the wallet, one row of effect. */
const buying = (name, onDeadLetter) =>
  command(name, {
    input,
    key: ({ sku }) => sku,
    databases,
    retries: 1,
    onDeadLetter,
    async load(batch, { stock, wallet }) {
      const items = await stock.selectIn(
        'stock',
        'sku',
        batch.map((each) => each.input.sku),
      )
      const purses = await wallet.selectIn(
        'wallet',
        'buyer',
        batch.map((each) => each.input.buyer),
      )
      return {
        units: Object.fromEntries(items.map((row) => [row.sku, row.units])),
        balances: Object.fromEntries(purses.map((row) => [row.buyer, row.balance])),
      }
    },
    decide(state, { sku, buyer, units, poison }) {
      failIfPoisoned('decide', poison)
      if (state.units[sku] < units) return reject('sold-out')
      if (state.balances[buyer] < units * price) return reject('insufficient-funds')
      state.units[sku] -= units
      state.balances[buyer] -= units * price
      return accept({ left: state.units[sku] })
    },
    async save(state, accepted, { stock, orders, wallet }) {
      const distinct = (field) => [...new Set(accepted.map((each) => each.input[field]))]
      await stock.updateMany(
        'stock',
        'sku',
        distinct('sku').map((sku) => ({ sku, units: state.units[sku] })),
      )
      await orders.insertMany(
        'effect',
        accepted.map((each) => effectOf(each, name, each.input.units, -each.input.units * price)),
      )
      for (const each of accepted) failIfPoisoned('save', each.input.poison)
      await wallet.updateMany(
        'wallet',
        'buyer',
        distinct('buyer').map((buyer) => ({ buyer, balance: state.balances[buyer] })),
      )
    },
  })

/** run: money into the wallet, one row of effect; rejects after it has written. */
const crediting = (name, onDeadLetter) =>
  command(name, {
    input,
    key: ({ buyer }) => `wallet:${buyer}`,
    databases: { orders, wallet },
    retries: 1,
    onDeadLetter,
    async run(submitted) {
      const { buyer, money, poison } = submitted.input
      await submitted.databases.wallet.addMany('wallet', 'buyer', [{ buyer, balance: money }])
      await submitted.databases.orders.insertMany('effect', [effectOf(submitted, name, 0, money)])
      failIfPoisoned('run', poison)
      return money > creditMax ? reject('too-much') : accept({ credited: money })
    },
  })

const commands = [
  buying('order.buy', 'skip'),
  buying('order.reserve', 'block'),
  crediting('wallet.credit', 'skip'),
  crediting('wallet.grant', 'block'),
]

const say = (line) => {
  let rest = Buffer.from(`${JSON.stringify(line)}\n`)
  while (rest.length > 0) {
    try {
      rest = rest.subarray(writeSync(1, rest))
    } catch (error) {
      if (error.code !== 'EAGAIN') throw error
    }
  }
}
const refusal = (n, error, known) => say({ n, error: error.code ?? 'unknown', message: error.message, known })

listen('headrace:retry', ({ way, error }) => {
  if (way === 'whole') say({ retried: error?.code ?? 'unknown' })
})

/** The queue on a server that commands go through, if there is one. */
const engineOf = async ({ url }) => {
  if (url.startsWith('postgres:')) return (await load('drivers/postgres/index.js')).postgresQueue({ url })
  if (url.startsWith('amqp:')) return (await load('drivers/rabbitmq/index.js')).rabbitmqQueue({ url })
  return (await load('drivers/sqlite/index.js')).sqliteQueue({ file: url })
}

let app
try {
  app = defineApp({ name: queue?.app ?? 'crash', commands, ...(queue === undefined ? {} : { queue: await engineOf(queue) }) })
  await app.start({ dataDir })
} catch (error) {
  say({ refused: error.code ?? 'unknown', message: error.message, details: error.details })
  process.exit(3)
}
say({ ready: true })

async function take({ n, do: action, command: name, input, id }) {
  try {
    const receipt = await app.gateway.take(name, input, { id })
    if (action === 'enqueue') {
      await receipt.durable()
      say({ n, durable: true })
    }
    say({ n, outcome: (await receipt.outcome).body })
  } catch (error) {
    const known = await app.gateway.outcomeState(name, 'default', id).then(
      ({ state }) => state,
      () => 'unasked',
    )
    refusal(n, error, known)
  }
}

const actions = {
  submit: take,
  enqueue: take,
  redrive: async ({ n, position }) => say({ n, answer: (await app.deadLetters.redrive(position)) ?? null }),
  drop: async ({ n, position }) => say({ n, answer: (await app.deadLetters.drop(position)) ?? null }),
  dead: async ({ n }) => say({ n, answer: await app.deadLetters.list({ limit: 10_000 }) }),
  status: async ({ n }) => say({ n, answer: await app.status() }),
  stop: async ({ n }) => {
    await app.stop()
    say({ n, answer: 'stopped' })
    process.exit(0)
  },
}

createInterface({ input: process.stdin })
  .on('line', (line) => {
    const request = JSON.parse(line)
    actions[request.do](request).catch((error) => refusal(request.n, error))
  })
  // The parent is gone: nobody is left to stop this process.
  .on('close', () => process.exit(4))
