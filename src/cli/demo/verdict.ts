/**
 * Judges a flash sale from outside: what the client sent and was answered,
 * against what stands in the three databases.
 *
 * Each check is a sentence about the whole sale, with a count of what breaks
 * it. Nothing here asks Headrace; a fault cannot hide behind its own answer.
 */
import type { OrderRow, SaleState } from './databases.ts'
import { brokenOrder, wrongRejections } from './order.ts'
import { orderId, orderIndex, orderInput, type SalePlan } from './plan.ts'
import type { SaleRecord } from './record.ts'

/** What /outcomes said when it was asked again for what the client was told. */
export interface OutcomeCheck {
  readonly asked: number
  /** Ids of accepted requests that it did not know. */
  readonly missing: readonly string[]
  /** Ids whose outcome was another than the client was told. */
  readonly different: readonly string[]
}

export interface Check {
  readonly name: string
  readonly ok: boolean
  /** What was found, in figures. */
  readonly found: string
  /** What breaks it, a few of them by name. */
  readonly examples: readonly string[]
}

export interface Verdict {
  readonly ok: boolean
  readonly checks: readonly Check[]
  /** Orders that took effect, by their answers. */
  readonly accepted: number
  readonly rejected: number
  /** Orders that are neither accepted nor rejected, dead-lettered ones included. */
  readonly unanswered: number
  /** Units sold, by the order rows. */
  readonly sold: number
  /** Cents taken, by the order rows. */
  readonly revenue: number
  /** Accepted requests that are not in the databases, or not in /outcomes. */
  readonly lost: number
  /** Order rows beyond the first of an id. */
  readonly duplicated: number
  /** Units sold beyond the stock. */
  readonly oversold: number
  /** SKUs and buyers whose stock or balance does not fit their order rows. */
  readonly halfWritten: number
  /** Order rows that nobody was told of: rejected, or never sent. */
  readonly unexpected: number
  /** Orders out of the order of their key. */
  readonly disordered: number
  /** Rejections that the state of their moment does not justify. */
  readonly wronglyRejected: number
}

export interface Evidence {
  readonly plan: SalePlan
  readonly record: SaleRecord
  readonly state: SaleState
  readonly outcomes: OutcomeCheck
  /** Transactions that are prepared in a database and not ended; null when no database can hold such. */
  readonly inDoubt: number | null
  /** Repeats with the same id that were answered otherwise, and how many were sent. */
  readonly repeats: { readonly sent: number; readonly different: number }
}

export function judge(evidence: Evidence): Verdict {
  const { plan, record, state, outcomes, inDoubt, repeats } = evidence
  const rows = state.orders
  const sold = sum(rows, (row) => row.quantity)
  const revenue = sum(rows, (row) => row.price * row.quantity)
  const initialStock = sum(plan.items, (item) => item.stock)
  const leftStock = sum([...state.items.values()], (item) => item.remaining)
  const initialMoney = sum(plan.wallets, (wallet) => wallet.balance)
  const leftMoney = sum([...state.wallets.values()], (wallet) => wallet.balance)

  const negative = [
    ...[...state.items].filter(([, item]) => item.remaining < 0),
    ...[...state.wallets].filter(([, wallet]) => wallet.balance < 0),
  ].map(([key]) => key)
  const doubled = doubledIds(rows)
  const oversold = unitsBeyondStock(plan, rows)
  const uneven = unevenKeys(plan, state)
  const missing = missingRows(plan, record, rows)
  const unexpected = unexpectedRows(plan, record, rows)
  const disordered = brokenOrder(plan, record, rows)
  const wrong = wrongRejections(plan, record, state)
  const unanswered = plan.orders - record.count('committed') - record.count('rejected')

  const checks: Check[] = [
    check(
      'every order got an outcome',
      unanswered === 0,
      unanswered === 0 ? `${n(plan.orders)} of ${n(plan.orders)}` : `${n(unanswered)} without one`,
    ),
    check(
      'sold = initial − left = orders',
      initialStock - leftStock === sold,
      `${n(initialStock)} − ${n(leftStock)} = ${n(initialStock - leftStock)} units gone, ${n(sold)} units in orders`,
    ),
    check('nothing oversold', oversold === 0, `${n(oversold)} units beyond the stock`),
    check(
      'money conserved',
      initialMoney - leftMoney === revenue,
      `${money(initialMoney - leftMoney)} out of wallets, ${money(revenue)} in orders`,
    ),
    check('no negative stock or balance', negative.length === 0, `${n(negative.length)} below zero`, negative),
    check(
      'nothing half-written',
      uneven.length === 0,
      `${n(plan.items.length)} SKUs and ${n(plan.wallets.length)} buyers, ${n(uneven.length)} do not add up`,
      uneven,
    ),
    check('each id once', doubled.length === 0, `${n(rows.length)} order rows, ${n(doubled.length)} doubled`, doubled),
    check(
      'each accepted order found',
      missing.length === 0,
      `${n(record.count('committed'))} accepted, ${n(missing.length)} not in the databases`,
      missing,
    ),
    check('no order that was not accepted', unexpected.length === 0, `${n(unexpected.length)} rows too many`, unexpected),
    check(
      'each outcome kept',
      outcomes.missing.length + outcomes.different.length === 0,
      `${n(outcomes.asked)} asked again, ${n(outcomes.missing.length)} unknown, ${n(outcomes.different.length)} changed`,
      [...outcomes.missing, ...outcomes.different],
    ),
    check('repeats answered alike', repeats.different === 0, `${n(repeats.sent)} sent twice, ${n(repeats.different)} answered otherwise`),
    check('order per key kept', disordered.length === 0, `${n(disordered.length)} out of place`, disordered),
    check(
      'no order refused wrongly',
      wrong.length === 0,
      `${n(record.count('rejected'))} rejected, ${n(wrong.length)} without reason`,
      wrong,
    ),
    ...(inDoubt === null ? [] : [check('nothing left in doubt', inDoubt === 0, `${n(inDoubt)} prepared and not ended`)]),
  ]
  return {
    ok: checks.every((check) => check.ok),
    checks,
    accepted: record.count('committed'),
    rejected: record.count('rejected'),
    unanswered,
    sold,
    revenue,
    lost: missing.length + outcomes.missing.length,
    duplicated: doubled.length,
    oversold,
    halfWritten: uneven.length,
    unexpected: unexpected.length,
    disordered: disordered.length,
    wronglyRejected: wrong.length,
  }
}

/** Examples kept of what breaks a check. */
const examplesMax = 5

function check(name: string, ok: boolean, found: string, broken: readonly string[] = []): Check {
  return { name, ok, found, examples: broken.slice(0, examplesMax) }
}

/** The id of every row beyond the first of its id. */
function doubledIds(rows: readonly OrderRow[]): string[] {
  const seen = new Set<string>()
  const doubled: string[] = []
  for (const { id } of rows) {
    if (seen.has(id)) doubled.push(id)
    seen.add(id)
  }
  return doubled
}

function unitsBeyondStock(plan: SalePlan, rows: readonly OrderRow[]): number {
  const soldOf = sums(
    rows,
    (row) => row.sku,
    (row) => row.quantity,
  )
  return sum(plan.items, (item) => Math.max(0, (soldOf.get(item.sku) ?? 0) - item.stock))
}

/** Per SKU: units gone = units in its orders. Per buyer: cents gone = cents in their orders. */
function unevenKeys(plan: SalePlan, state: SaleState): string[] {
  const soldOf = sums(
    state.orders,
    (row) => row.sku,
    (row) => row.quantity,
  )
  const spentOf = sums(
    state.orders,
    (row) => row.buyer,
    (row) => row.price * row.quantity,
  )
  const items = plan.items.filter(
    (item) => item.stock - (state.items.get(item.sku)?.remaining ?? Number.NaN) !== (soldOf.get(item.sku) ?? 0),
  )
  const wallets = plan.wallets.filter(
    (wallet) => wallet.balance - (state.wallets.get(wallet.buyer)?.balance ?? Number.NaN) !== (spentOf.get(wallet.buyer) ?? 0),
  )
  return [...items.map((item) => item.sku), ...wallets.map((wallet) => wallet.buyer)]
}

/** Orders that the client was told are committed, and whose row is not there, or holds something else. */
function missingRows(plan: SalePlan, record: SaleRecord, rows: readonly OrderRow[]): string[] {
  const rowOf = new Map(rows.map((row) => [row.id, row]))
  const missing: string[] = []
  for (let index = 0; index < plan.orders; index++) {
    if (record.kindOf(index) !== 'committed') continue
    const row = rowOf.get(orderId(index))
    const input = orderInput(plan, index)
    const price = plan.items[plan.skuOf[index] as number]?.price
    const same =
      row !== undefined &&
      row.sku === input.sku &&
      row.buyer === input.buyer &&
      row.quantity === input.quantity &&
      row.price === price &&
      row.position === record.positionOf[index]
    if (!same) missing.push(orderId(index))
  }
  return missing
}

/** Rows whose order was never sent, or was answered with a rejection or a failure. */
function unexpectedRows(plan: SalePlan, record: SaleRecord, rows: readonly OrderRow[]): string[] {
  const allowed = (id: string): boolean => {
    const index = orderIndex(plan, id)
    const kind = index === null ? 'none' : record.kindOf(index)
    return kind !== 'none' && kind !== 'rejected' && kind !== 'failed'
  }
  return rows.filter((row) => !allowed(row.id)).map((row) => row.id)
}

function sum<T>(items: readonly T[], amountOf: (item: T) => number): number {
  let total = 0
  for (const item of items) total += amountOf(item)
  return total
}

function sums<T>(items: readonly T[], keyOf: (item: T) => string, amountOf: (item: T) => number): Map<string, number> {
  const totals = new Map<string, number>()
  for (const item of items) totals.set(keyOf(item), (totals.get(keyOf(item)) ?? 0) + amountOf(item))
  return totals
}

const whole = new Intl.NumberFormat('en-US')
const n = (value: number): string => whole.format(value)
const twoDigits = new Intl.NumberFormat('en-US', { minimumFractionDigits: 2, maximumFractionDigits: 2 })
const money = (cents: number): string => twoDigits.format(cents / 100)
