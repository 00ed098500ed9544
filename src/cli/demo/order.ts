/**
 * Order per key, from three sides: the rows as they were written, the clock of
 * the client, and the reasons of the rejections.
 */
import type { OrderRow, SaleState } from './databases.ts'
import { orderId, type SalePlan } from './plan.ts'
import type { SaleRecord } from './record.ts'

/**
 * Orders out of place, by id, found in two ways:
 *
 * - the rows of a SKU, in the order they were written, must have growing positions;
 * - an order that was sent after another one of the same SKU had been answered
 *   must have the greater position (real-time order, as in linearizability;
 *   M. Herlihy and J. Wing, 1990).
 */
export function brokenOrder(plan: SalePlan, record: SaleRecord, rows: readonly OrderRow[]): string[] {
  return [...writtenOutOfOrder(rows), ...answeredOutOfOrder(plan, record)]
}

function writtenOutOfOrder(rows: readonly OrderRow[]): string[] {
  const last = new Map<string, number>()
  const broken: string[] = []
  for (const row of rows) {
    if (row.position <= (last.get(row.sku) ?? Number.NEGATIVE_INFINITY)) broken.push(row.id)
    last.set(row.sku, row.position)
  }
  return broken
}

function answeredOutOfOrder(plan: SalePlan, record: SaleRecord): string[] {
  const broken: string[] = []
  for (const indexes of decidedPerSku(plan, record)) {
    // Walking up the positions: none may have been answered before one with a lower position was sent.
    let latestSent = Number.NEGATIVE_INFINITY
    for (const index of indexes) {
      if ((record.answeredAt[index] as number) < latestSent) broken.push(orderId(index))
      latestSent = Math.max(latestSent, record.sentAt[index] as number)
    }
  }
  return broken
}

/** Indexes of the decided orders of each SKU, by position. */
function decidedPerSku(plan: SalePlan, record: SaleRecord): number[][] {
  const perSku: number[][] = plan.items.map(() => [])
  for (let index = 0; index < plan.orders; index++) {
    const kind = record.kindOf(index)
    if (kind === 'committed' || kind === 'rejected') perSku[plan.skuOf[index] as number]?.push(index)
  }
  for (const indexes of perSku) indexes.sort((a, b) => (record.positionOf[a] as number) - (record.positionOf[b] as number))
  return perSku
}

/**
 * Rejections without a reason, by id. The stock of a SKU at a position follows
 * from the rows before it, since only orders of that SKU touch it: 'sold-out'
 * needs less left than was asked for, 'insufficient-funds' at least as much.
 * Balances only shrink, so a wallet that could pay at the end could pay before.
 * Any other code is not a rejection of this sale.
 */
export function wrongRejections(plan: SalePlan, record: SaleRecord, state: SaleState): string[] {
  const soldAt = new Map<string, OrderRow[]>(plan.items.map((item) => [item.sku, []]))
  for (const row of state.orders) soldAt.get(row.sku)?.push(row)
  for (const sold of soldAt.values()) sold.sort((a, b) => a.position - b.position)

  const wrong: string[] = []
  for (const [sku, indexes] of decidedPerSku(plan, record).entries()) {
    const item = plan.items[sku] as SalePlan['items'][number]
    const sold = soldAt.get(item.sku) ?? []
    let left = item.stock
    let next = 0
    for (const index of indexes) {
      if (record.kindOf(index) !== 'rejected') continue
      const position = record.positionOf[index] as number
      while (next < sold.length && (sold[next] as OrderRow).position < position) {
        left -= (sold[next] as OrderRow).quantity
        next += 1
      }
      const quantity = plan.quantityOf[index] as number
      const buyer = plan.wallets[plan.buyerOf[index] as number]?.buyer ?? ''
      const couldPay = (state.wallets.get(buyer)?.balance ?? 0) >= item.price * quantity
      const code = record.codeOf(index)
      const right = code === 'sold-out' ? left < quantity : code === 'insufficient-funds' ? left >= quantity && !couldPay : false
      if (!right) wrong.push(orderId(index))
    }
  }
  return wrong
}
