/**
 * What must hold after everything was answered and the node has stopped, read
 * from the SQLite files with SQL of our own, and from the servers with the
 * clients of their engines; Headrace has no part in it.
 *
 * Each finding starts with the invariant of DESIGN, section 4, that it breaks.
 */
import { copyFileSync, existsSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { DatabaseSync } from '@photostructure/sqlite'
import type { Sent } from './load.ts'
import { leftOnServers, readServer } from './servers.ts'
import { type DatabaseName, databaseNames, type Places, world } from './world.ts'

interface Effect {
  readonly seq: number
  readonly position: number
  readonly id: string
  readonly command: string
  readonly key: string
  readonly sender: string
  readonly number: number
  readonly sku: string | null
  readonly buyer: string
  readonly units: number
  readonly money: number
}

interface OutcomeRow {
  readonly id: string
  readonly status: string
  readonly body: string
}

/**
 * Runs a query on a copy of a file of the data directory and of its log: a
 * reader on the files themselves would take part in what is tested.
 */
export function readRows<Row>(dataDir: string, name: string, sql: string): Row[] {
  const folder = mkdtempSync(join(tmpdir(), 'headrace-verdict-'))
  const [file, copy] = [join(dataDir, `${name}.sqlite`), join(folder, 'copy.sqlite')]
  try {
    copyFileSync(file, copy)
    if (existsSync(`${file}-wal`)) copyFileSync(`${file}-wal`, `${copy}-wal`)
    const database = new DatabaseSync(copy)
    try {
      return database.prepare(sql).all() as Row[]
    } finally {
      database.close()
    }
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
}

/** The epoch of the last start; 0 when none came so far. */
export function epochOf(dataDir: string): number {
  // Killed while the journal was first made: there is nothing in it.
  if (!existsSync(join(dataDir, 'journal.sqlite')) || existsSync(join(dataDir, 'journal.sqlite-journal'))) return 0
  if (readRows(dataDir, 'journal', "select 1 from sqlite_master where name = 'meta'").length === 0) return 0
  return readRows<{ value: number }>(dataDir, 'journal', "select value from meta where name = 'epoch'")[0]?.value ?? 0
}

/**
 * What was acknowledged and is not in the journal, between two processes: the
 * next one is sent everything again that has no outcome, so later nobody sees
 * that it was lost.
 */
export function lost(dataDir: string, sent: readonly Sent[]): string[] {
  const acknowledged = sent.filter(({ durable, body }) => durable || body !== null)
  if (acknowledged.length === 0) return []
  const kept = new Set(
    tablesOf(dataDir).flatMap((table) => readRows<{ id: string }>(dataDir, 'journal', `select id from ${table}`).map(({ id }) => id)),
  )
  for (const id of inQueue(dataDir)) kept.add(id)
  return acknowledged
    .filter((each) => !kept.has(scoped(each)))
    .map(
      (each) =>
        `1 acknowledged is durable: ${scoped(each)} was ${each.body === null ? 'said to be safe' : 'answered'}, and the process left nothing of it`,
    )
}

/** Commands that wait in the queue of a file of its own, if there is one. */
function inQueue(dataDir: string): string[] {
  if (!existsSync(join(dataDir, 'queue.sqlite'))) return []
  return readRows<{ headers: string }>(
    dataDir,
    'queue',
    "select headers from message join place using (topic, partition) where place.name = 'apply' and position > acked",
  ).map(({ headers }) => {
    const { type = '', tenant = '', id = '' } = JSON.parse(headers) as Record<string, string>
    return `${type}/${tenant}/${id}`
  })
}

/** Those of the tables of commands that are there: a journal that lost everything has none. */
function tablesOf(dataDir: string): string[] {
  if (!existsSync(join(dataDir, 'journal.sqlite'))) return []
  const tables = readRows<{ name: string }>(dataDir, 'journal', "select name from sqlite_master where name in ('outcome', 'entry')")
  return tables.map(({ name }) => name)
}

interface StockRow {
  readonly sku: string
  readonly units: number
  readonly moved: number
}

interface WalletRow {
  readonly buyer: string
  readonly balance: number
}

/** Everything that is broken; empty when all is well. `places`: of the databases on servers. */
export async function findings(dataDir: string, sent: readonly Sent[], places: Places = {}): Promise<string[]> {
  const read = async <Row>(name: DatabaseName, sql: string): Promise<Row[]> => {
    const url = places[name]
    return url === undefined ? readRows<Row>(dataDir, name, sql) : readServer<Row>(url, sql)
  }
  const outcomes = readRows<OutcomeRow>(dataDir, 'journal', 'select id, status, body from outcome')
  const effects = await read<Effect>('orders', 'select * from effect order by seq')
  const stock = await read<StockRow>('stock', 'select sku, stock.units, movement.units as moved from stock join movement using (sku)')
  const wallets = await read<WalletRow>('wallet', 'select buyer, balance from wallet')
  return [
    ...acknowledgedIsDurable(sent, outcomes),
    ...onceAllOrNone({ sent, outcomes, effects, stock, wallets }),
    ...orderPerKey(effects),
    ...nothingLeftBehind(dataDir, places),
    ...(await leftOnServers(places, (sql) => readRows(dataDir, 'journal', sql))),
    ...onlyPoisonFails(sent, outcomes),
  ]
}

const scoped = ({ submission: { command, id } }: Sent): string => `${command}/default/${id}`

function acknowledgedIsDurable(sent: readonly Sent[], outcomes: readonly OutcomeRow[]): string[] {
  const stored = new Map(outcomes.map((outcome) => [outcome.id, outcome.body]))
  const broken = (what: string): string => `1 acknowledged is durable: ${what}`
  return sent.flatMap((each) => {
    const body = stored.get(scoped(each))
    const found: string[] = each.errors.map((error) => broken(`${scoped(each)} was answered with ${error}`))
    if (each.durable && body === undefined) found.push(broken(`${scoped(each)} was said to be safe, and has no outcome`))
    if (each.body === null && each.errors.length === 0) found.push(broken(`${scoped(each)} was never answered`))
    if (each.body !== null && each.body !== body)
      found.push(broken(`${scoped(each)} was answered ${each.body}, and ${body ?? 'nothing'} is stored`))
    for (const other of each.others) found.push(broken(`${scoped(each)} was answered ${each.body} and then ${other}`))
    return found
  })
}

function onceAllOrNone({
  sent,
  outcomes,
  effects,
  stock,
  wallets,
}: {
  readonly sent: readonly Sent[]
  readonly outcomes: readonly OutcomeRow[]
  readonly effects: readonly Effect[]
  readonly stock: readonly StockRow[]
  readonly wallets: readonly WalletRow[]
}): string[] {
  const found: string[] = []
  const broken = (what: string): void => void found.push(`2 once, all or none: ${what}`)
  const outcomesOf = countBy(outcomes, ({ id }) => id)
  const effectsOf = countBy(effects, ({ command, id }) => `${command}/default/${id}`)
  const committed = new Set(outcomes.filter(({ status }) => status === 'committed').map(({ id }) => id))
  for (const [id, count] of outcomesOf) if (count > 1) broken(`${id} has ${count} outcomes`)
  for (const [id, count] of effectsOf) if (count > 1) broken(`${id} took effect ${count} times`)
  for (const id of committed) if (!effectsOf.has(id)) broken(`${id} is committed, and has no effect in 'orders'`)
  for (const id of effectsOf.keys()) {
    if (committed.has(id)) continue
    const rejected = outcomesOf.has(id)
    found.push(
      rejected
        ? `5 a rejected or failed command leaves nothing: ${id} took effect`
        : `2 once, all or none: ${id} took effect and has no outcome`,
    )
  }
  const known = new Set(sent.map(scoped))
  for (const id of effectsOf.keys()) if (!known.has(id)) broken(`${id} took effect and was never sent`)

  const unitsOut = sumBy(
    effects,
    ({ sku }) => sku ?? '',
    ({ units }) => units,
  )
  for (const { sku, units, moved } of stock) {
    const out = unitsOut.get(sku) ?? 0
    if (units !== world.unitsPerSku - out) broken(`${sku} has ${units} left, where ${world.unitsPerSku} - ${out} ordered were to be left`)
    if (moved !== out) broken(`the trigger counted ${moved} units of ${sku} where ${out} were ordered`)
    if (units < 0) broken(`${sku} is oversold: ${units}`)
  }
  const moneyIn = sumBy(
    effects,
    ({ buyer }) => buyer,
    ({ money }) => money,
  )
  for (const { buyer, balance } of wallets) {
    const due = world.balancePerBuyer + (moneyIn.get(buyer) ?? 0)
    if (balance !== due) broken(`${buyer} has ${balance}, and by the orders ${due}`)
    if (balance < 0) broken(`${buyer} owes money: ${balance}`)
  }
  if (stock.length !== world.skus.length || wallets.length !== world.buyers.length) broken('rows of the stock or the wallets are gone')
  return found
}

function orderPerKey(effects: readonly Effect[]): string[] {
  const found: string[] = []
  const lastPosition = new Map<string, Effect>()
  const lastNumber = new Map<string, Effect>()
  for (const effect of effects) {
    const before = lastPosition.get(effect.key)
    if (before !== undefined && before.position >= effect.position) {
      found.push(
        `3 order per key: on ${effect.key}, ${effect.id} (position ${effect.position}) took effect after ${before.id} (position ${before.position})`,
      )
    }
    lastPosition.set(effect.key, effect)
    const line = `${effect.sender} on ${effect.key}`
    const earlier = lastNumber.get(line)
    if (earlier !== undefined && earlier.number >= effect.number)
      found.push(`3 order per key: ${line} sent ${effect.id} before ${earlier.id}, and it took effect after it`)
    lastNumber.set(line, effect)
  }
  return found
}

/** After a gentle stop nothing waits, nothing is to be redone, and no file is ahead of the journal or under a later epoch. */
function nothingLeftBehind(dataDir: string, places: Places): string[] {
  const found: string[] = []
  const waiting = readRows<{ id: string; parked: number }>(dataDir, 'journal', 'select id, parked from entry')
  for (const { id, parked } of waiting)
    found.push(`2 once, all or none: ${id} is still ${parked === 1 ? 'parked' : 'queued'} though everything is answered`)
  const redo = readRows<{ batch: number; file: string }>(dataDir, 'journal', 'select batch, file from redo')
  if (redo.length > 0) found.push(`2 once, all or none: ${redo.length} changes are still to be redone after a gentle stop`)
  const meta = new Map(
    readRows<{ name: string; value: number }>(dataDir, 'journal', 'select name, value from meta').map(({ name, value }) => [name, value]),
  )
  for (const name of databaseNames.filter((each) => places[each] === undefined)) {
    for (const { batch, epoch } of readRows<{ batch: number; epoch: number }>(
      dataDir,
      name,
      'select batch, epoch from headrace_partition',
    )) {
      if (batch > Number(meta.get('batch')))
        found.push(`2 once, all or none: '${name}' has batch ${batch}, the journal ends at ${meta.get('batch')}`)
      if (epoch > Number(meta.get('epoch')))
        found.push(`4 only the owner commits: '${name}' is under epoch ${epoch}, the journal under ${meta.get('epoch')}`)
    }
  }
  return found
}

function onlyPoisonFails(sent: readonly Sent[], outcomes: readonly OutcomeRow[]): string[] {
  const healthy = new Set(sent.filter(({ poisoned }) => !poisoned).map(scoped))
  return outcomes
    .filter(({ id, status }) => status === 'failed' && healthy.has(id))
    .map(({ body }) => `9 a poisoned key harms only itself: a healthy command failed: ${body}`)
}

function countBy<T>(items: readonly T[], keyOf: (item: T) => string): Map<string, number> {
  return sumBy(items, keyOf, () => 1)
}

function sumBy<T>(items: readonly T[], keyOf: (item: T) => string, amountOf: (item: T) => number): Map<string, number> {
  const sums = new Map<string, number>()
  for (const item of items) sums.set(keyOf(item), (sums.get(keyOf(item)) ?? 0) + amountOf(item))
  return sums
}
