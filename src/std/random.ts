/**
 * Seeded randomness: the same seed gives the same numbers on every machine, so
 * that a run can be repeated. Not for secrets.
 *
 * xoshiro128** (Blackman and Vigna, 2018), seeded by splitmix32.
 */
export interface Random {
  readonly seed: number
  /** A number from 0 up to, but not including, 1. */
  next(): number
  /** A whole number from 0 up to, but not including, `bound`. */
  int(bound: number): number
  /** A whole number from `low` to `high`, both included. */
  between(low: number, high: number): number
  /** One of the items. Throws a RangeError when there are none. */
  pick<T>(items: readonly T[]): T
  /** True with the probability given. */
  chance(probability: number): boolean
  /** The items in random order; the given array stays as it is. */
  shuffle<T>(items: readonly T[]): T[]
  /** A generator of its own, that depends on this seed and the name only: what one part draws does not move another. */
  fork(name: string): Random
}

export function createRandom(seed: number): Random {
  const start = splitmix32(seed)
  let a = start()
  let b = start()
  let c = start()
  let d = start()

  const word = (): number => {
    const result = Math.imul(rotate(Math.imul(b, 5), 7), 9) >>> 0
    const t = b << 9
    c ^= a
    d ^= b
    b ^= c
    a ^= d
    c ^= t
    d = rotate(d, 11)
    return result
  }

  const random: Random = {
    seed,
    // 53 bits, so that large bounds have no holes.
    next: () => ((word() >>> 5) * 0x4000000 + (word() >>> 6)) / 2 ** 53,
    int(bound) {
      if (!Number.isSafeInteger(bound) || bound < 1) throw new RangeError(`int() needs a whole number from 1, not ${bound}`)
      return Math.floor(random.next() * bound)
    },
    between: (low, high) => low + random.int(high - low + 1),
    pick(items) {
      if (items.length === 0) throw new RangeError('pick() needs at least one item')
      return items[random.int(items.length)] as (typeof items)[number]
    },
    chance: (probability) => random.next() < probability,
    shuffle(items) {
      const copy = [...items]
      for (let i = copy.length - 1; i > 0; i--) {
        const j = random.int(i + 1)
        const held = copy[i] as (typeof items)[number]
        copy[i] = copy[j] as (typeof items)[number]
        copy[j] = held
      }
      return copy
    },
    fork: (name) => createRandom((seed ^ hash(name)) >>> 0),
  }
  return random
}

function rotate(value: number, bits: number): number {
  return (value << bits) | (value >>> (32 - bits))
}

function splitmix32(seed: number): () => number {
  // Seeds above 32 bits keep their upper half.
  let state = (seed ^ Math.floor(seed / 2 ** 32)) | 0
  return () => {
    state = (state + 0x9e3779b9) | 0
    let mixed = Math.imul(state ^ (state >>> 16), 0x21f0aaad)
    mixed = Math.imul(mixed ^ (mixed >>> 15), 0x735a2d97)
    return (mixed ^ (mixed >>> 15)) >>> 0
  }
}

/** FNV-1a, 32 bits. */
function hash(text: string): number {
  let value = 0x811c9dc5
  for (let i = 0; i < text.length; i++) value = Math.imul(value ^ text.charCodeAt(i), 0x01000193)
  return value >>> 0
}
