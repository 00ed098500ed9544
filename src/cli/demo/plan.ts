/**
 * What the flash sale is: which SKUs at what price, which buyers with what in
 * their wallets, and every order, all from one seed. Amounts are whole cents.
 */
import { createRandom } from '../../std/random.ts'
import { createZipf } from '../load/expression.ts'

export interface SaleOptions {
  readonly seed: number
  readonly orders: number
  readonly skus: number
  readonly buyers: number
  /** Units of each SKU; null gives each SKU about half of what is asked for on average. */
  readonly stock: number | null
}

export interface SalePlan {
  readonly seed: number
  readonly orders: number
  readonly items: readonly { readonly sku: string; readonly price: number; readonly stock: number }[]
  readonly wallets: readonly { readonly buyer: string; readonly balance: number }[]
  /** Of order i: its SKU and buyer as indexes into the lists above, and its quantity. */
  readonly skuOf: Uint32Array
  readonly buyerOf: Uint32Array
  readonly quantityOf: Uint8Array
}

const quantityMax = 5
const priceMin = 199
const priceMax = 9_999

export function planSale(options: SaleOptions): SalePlan {
  const random = createRandom(options.seed)
  const { orders, skus, buyers } = options
  const averageQuantity = (1 + quantityMax) / 2
  const stock = options.stock ?? Math.max(1, Math.round((orders * averageQuantity) / skus / 2))
  const forItems = random.fork('items')
  const items = Array.from({ length: skus }, (_, index) => ({
    sku: `sku-${index + 1}`,
    price: forItems.between(priceMin, priceMax),
    stock,
  }))

  // A few wallets run dry: balances lie around what a buyer will spend on average.
  const averagePrice = items.reduce((sum, item) => sum + item.price, 0) / skus
  const spending = Math.min((orders * averageQuantity) / 2, stock * skus) * averagePrice
  const balanceMax = Math.max(priceMax, Math.round((3 * spending) / buyers))
  const forWallets = random.fork('wallets')
  const wallets = Array.from({ length: buyers }, (_, index) => ({
    buyer: `buyer-${index + 1}`,
    balance: forWallets.between(Math.round(balanceMax / 4), balanceMax),
  }))

  // One SKU is what everybody came for; the others follow by Zipf's law.
  const forOrders = random.fork('orders')
  const popularity = createZipf(skus)
  const skuOf = new Uint32Array(orders)
  const buyerOf = new Uint32Array(orders)
  const quantityOf = new Uint8Array(orders)
  for (let index = 0; index < orders; index++) {
    skuOf[index] = popularity(forOrders)
    buyerOf[index] = forOrders.int(buyers)
    quantityOf[index] = forOrders.between(1, quantityMax)
  }
  return { seed: options.seed, orders, items, wallets, skuOf, buyerOf, quantityOf }
}

export interface OrderInput {
  readonly sku: string
  readonly buyer: string
  readonly quantity: number
}

export function orderInput(plan: SalePlan, index: number): OrderInput {
  return {
    sku: plan.items[plan.skuOf[index] as number]?.sku ?? '',
    buyer: plan.wallets[plan.buyerOf[index] as number]?.buyer ?? '',
    quantity: plan.quantityOf[index] as number,
  }
}

/** The Idempotency-Key of order i. */
export function orderId(index: number): string {
  return `order-${index}`
}

/** The order that an id names; null for an id that was never sent. */
export function orderIndex(plan: SalePlan, id: string): number | null {
  const match = /^order-(0|[1-9]\d*)$/.exec(id)
  const index = match === null ? Number.NaN : Number(match[1])
  return index < plan.orders ? index : null
}
