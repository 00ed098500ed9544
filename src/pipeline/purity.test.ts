import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { impureRejections, snapshot } from './purity.ts'

/** Decides a batch on a state, then asks who was impure: what the pipeline does. */
function judged<State, Input>(state: State, inputs: readonly Input[], decide: (state: State, input: Input) => boolean): number[] {
  const before = snapshot(state)
  const accepted = inputs.map((input) => decide(state, input))
  if (before === null) return []
  return impureRejections(before, state, accepted, (copy, index) => decide(copy as State, inputs[index] as Input))
}

interface Shop {
  left: Map<string, number>
  buyers: Set<string>
  totals: { sold: number; byBuyer: Record<string, number[]> }
}
interface Order {
  readonly sku: string
  readonly buyer: string
  readonly quantity: number
  /** Where decide() writes before it rejects. */
  readonly spoils: 'nothing' | 'map' | 'set' | 'nested' | 'array' | 'addition'
}

const newShop = (left: number): Shop => ({
  left: new Map([
    ['a', left],
    ['b', left],
  ]),
  buyers: new Set(),
  totals: { sold: 0, byBuyer: {} },
})

function buy(shop: Shop, { sku, buyer, quantity, spoils }: Order): boolean {
  const left = shop.left.get(sku) ?? 0
  if (left < quantity) {
    if (spoils === 'map') shop.left.set(sku, left - quantity)
    if (spoils === 'set') shop.buyers.add(`${buyer}!`)
    if (spoils === 'nested') shop.totals.sold += quantity
    if (spoils === 'array') shop.totals.byBuyer[buyer] = [...(shop.totals.byBuyer[buyer] ?? []), -1]
    if (spoils === 'addition') shop.left.set(`${sku}?`, 0)
    return false
  }
  shop.left.set(sku, left - quantity)
  shop.buyers.add(buyer)
  shop.totals.sold += quantity
  shop.totals.byBuyer[buyer] = [...(shop.totals.byBuyer[buyer] ?? []), quantity]
  return true
}

const order = (spoils: Order['spoils']): fc.Arbitrary<Order> =>
  fc.record({
    sku: fc.constantFrom('a', 'b'),
    buyer: fc.constantFrom('x', 'y', 'z'),
    quantity: fc.integer({ min: 1, max: 5 }),
    spoils: fc.constant(spoils),
  })

describe('a decide() that rejects before its first change', () => {
  it('is never accused, whatever is ordered, with maps, sets and nested state', () => {
    fc.assert(
      fc.property(
        fc.nat(30),
        fc.array(order('nothing'), { maxLength: 40 }),
        (left, orders) => void expect(judged(newShop(left), orders, buy)).toEqual([]),
      ),
    )
  })

  it('is never accused when it decides by chance', () => {
    fc.assert(
      fc.property(fc.array(fc.boolean(), { minLength: 1, maxLength: 60 }), (coins) => {
        let toss = 0
        const decide = (state: { heads: number }): boolean => {
          if (coins[toss++ % coins.length] !== true) return false
          state.heads += 1
          return true
        }
        expect(judged({ heads: 0 }, coins, decide)).toEqual([])
      }),
    )
  })

  it('is never accused for a state that cannot be copied', () => {
    const withFunction = { left: 1, log: (): void => undefined }
    expect(snapshot(withFunction)).toBeNull()
    expect(judged(withFunction, [2, 1, 2], (state, quantity) => quantity <= state.left)).toEqual([])
  })

  it('is never accused for a state of classes, whose copies have lost their methods', () => {
    class Stock {
      left = 3
      take(quantity: number): boolean {
        if (quantity > this.left) return false
        this.left -= quantity
        return true
      }
    }
    expect(judged(new Stock(), [2, 2, 1, 1], (stock, quantity) => stock.take(quantity))).toEqual([])
  })

  it('is never accused when it rejects everything, or nothing', () => {
    expect(judged(newShop(0), [{ sku: 'a', buyer: 'x', quantity: 1, spoils: 'nothing' }], buy)).toEqual([])
    expect(judged(newShop(9), [{ sku: 'a', buyer: 'x', quantity: 1, spoils: 'map' }], buy)).toEqual([])
  })
})

describe('a decide() that changes the state and then rejects', () => {
  for (const spoils of ['map', 'set', 'nested', 'array', 'addition'] as const) {
    it(`is found, and exactly the commands to blame are named (${spoils})`, () => {
      const spoiled: Order = { sku: 'a', buyer: 'x', quantity: 99, spoils }
      fc.assert(
        fc.property(fc.array(order('nothing'), { maxLength: 20 }), fc.nat(20), (orders, at) => {
          const place = Math.min(at, orders.length)
          const batch = [...orders.slice(0, place), spoiled, ...orders.slice(place)]
          expect(judged(newShop(8), batch, buy)).toEqual([place])
        }),
      )
    })
  }

  it('is found when several did it in one batch', () => {
    const bad: Order = { sku: 'b', buyer: 'y', quantity: 50, spoils: 'set' }
    const other: Order = { sku: 'a', buyer: 'z', quantity: 50, spoils: 'nested' }
    const good: Order = { sku: 'a', buyer: 'x', quantity: 1, spoils: 'nothing' }
    expect(judged(newShop(5), [good, bad, good, other, good], buy)).toEqual([1, 3])
  })

  it('is found when the first command of the batch did it', () => {
    expect(judged(newShop(0), [{ sku: 'a', buyer: 'x', quantity: 1, spoils: 'map' }], buy)).toEqual([0])
  })
})
