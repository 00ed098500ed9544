/**
 * Made-up streams of requests, and what a policy hits of them: for the tests, the
 * bench and the model. A request is the number of a key.
 */
import { frequencyMax, QueueNode, S3Fifo } from '../cache/s3-fifo.ts'
import { createRandom } from '../std/random.ts'

/** Key i is asked for with a weight of 1 / (i + 1)^exponent. */
export function zipf(seed: number, keys: number, exponent: number, requests: number): Uint32Array {
  const draw = zipfDraw(seed, keys, exponent)
  return Uint32Array.from({ length: requests }, draw)
}

/** Zipf, and a run through keys that are asked for once and never again, after every so many requests. */
export function zipfWithScans(seed: number, keys: number, exponent: number, requests: number): Uint32Array {
  const draw = zipfDraw(seed, keys, exponent)
  const period = Math.max(10, Math.floor(keys / 2))
  const scan = Math.floor(period / 4)
  let next = keys
  return Uint32Array.from({ length: requests }, (_, place) => (place % period < scan ? next++ : draw()))
}

/** Zipf over a set whose hot keys change: every so many requests all ranks move on to other keys. */
export function shifting(seed: number, keys: number, exponent: number, requests: number, shifts = 10): Uint32Array {
  const draw = zipfDraw(seed, keys, exponent)
  const period = Math.ceil(requests / shifts)
  const step = Math.floor(keys / shifts)
  return Uint32Array.from({ length: requests }, (_, place) => (draw() + Math.floor(place / period) * step) % keys)
}

function zipfDraw(seed: number, keys: number, exponent: number): () => number {
  const random = createRandom(seed)
  const sums = new Float64Array(keys)
  let sum = 0
  for (let key = 0; key < keys; key++) {
    sum += 1 / (key + 1) ** exponent
    sums[key] = sum
  }
  return () => {
    const target = random.next() * sum
    let low = 0
    let high = keys - 1
    while (low < high) {
      const middle = (low + high) >> 1
      if ((sums[middle] as number) > target) high = middle
      else low = middle + 1
    }
    return low
  }
}

class Numbered extends QueueNode {
  readonly key: number
  constructor(key: number) {
    super(Math.imul(key + 1, 0x9e3779b1) >>> 0, 1)
    this.key = key
  }
}

/** How many requests S3-FIFO answers with room for `capacity` keys. */
export function s3FifoHits(trace: Uint32Array, capacity: number): number {
  const index = new Map<number, Numbered>()
  const cache = new S3Fifo<Numbered>({ bytesMax: capacity, entriesMax: capacity }, ({ key }) => index.delete(key))
  let hits = 0
  for (const key of trace) {
    const node = index.get(key)
    if (node !== undefined) {
      hits++
      if (node.frequency < frequencyMax) node.frequency++
      continue
    }
    const made = new Numbered(key)
    index.set(key, made)
    cache.add(made)
  }
  return hits
}

/** The same with the policy that most caches have: the least recently used goes. */
export function lruHits(trace: Uint32Array, capacity: number): number {
  const kept = new Map<number, true>()
  let hits = 0
  for (const key of trace) {
    if (kept.delete(key)) hits++
    else if (kept.size >= capacity) kept.delete(kept.keys().next().value as number)
    kept.set(key, true)
  }
  return hits
}
