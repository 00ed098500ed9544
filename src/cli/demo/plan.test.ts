import { describe, expect, it } from 'vitest'
import { orderId, orderIndex, orderInput, planSale } from './plan.ts'

const options = { seed: 1, orders: 5_000, skus: 8, buyers: 100, stock: null }

describe('the plan of a flash sale', () => {
  it('is the same for a seed and another for another', () => {
    expect(planSale(options)).toEqual(planSale(options))
    expect(planSale({ ...options, seed: 2 }).buyerOf).not.toEqual(planSale(options).buyerOf)
  })

  it('asks for one to five units, most of all of the first SKU, from all buyers', () => {
    const plan = planSale(options)
    const inputs = Array.from({ length: plan.orders }, (_, index) => orderInput(plan, index))
    expect(new Set(inputs.map((input) => input.quantity))).toEqual(new Set([1, 2, 3, 4, 5]))
    expect(new Set(inputs.map((input) => input.buyer)).size).toBe(100)
    const asked = plan.items.map(({ sku }) => inputs.filter((input) => input.sku === sku).length)
    expect(Math.max(...asked)).toBe(asked[0])
    expect(Math.min(...asked)).toBeGreaterThan(0)
  })

  it('has about half the stock that is asked for, or what it is told', () => {
    const stockOf = (plan: ReturnType<typeof planSale>): number => plan.items.reduce((sum, item) => sum + item.stock, 0)
    expect(stockOf(planSale(options))).toBeCloseTo(5_000 * 1.5, -2)
    expect(stockOf(planSale({ ...options, stock: 7 }))).toBe(56)
    expect(stockOf(planSale({ ...options, stock: 0 }))).toBe(0)
  })

  it('holds for the smallest sale', () => {
    const plan = planSale({ seed: 3, orders: 1, skus: 1, buyers: 1, stock: null })
    expect(orderInput(plan, 0)).toMatchObject({ sku: 'sku-1', buyer: 'buyer-1' })
    expect(plan.wallets[0]?.balance).toBeGreaterThan(0)
  })

  it('knows its own ids and no others', () => {
    const plan = planSale(options)
    expect(orderIndex(plan, orderId(4_999))).toBe(4_999)
    for (const foreign of ['order-5000', 'order-', 'order-01', 'order-1.0', 'put-1', ''])
      expect(orderIndex(plan, foreign), foreign).toBe(null)
  })
})
