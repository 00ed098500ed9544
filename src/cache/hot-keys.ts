/**
 * Which keys are asked for most, in bounded memory: Space-Saving ("Efficient
 * computation of frequent and top-k elements", Metwally, Agrawal and El Abbadi,
 * ICDT 2005) over a sample of the gets, halved from time to time so that what
 * was hot yesterday makes room.
 *
 * A key that is asked for in more than one of `max` sampled gets is in the list
 * for certain.
 */
export interface HotKey {
  readonly namespace: string
  readonly key: string
  /** Its share of the gets of late, from 0 to 1; never too low, too high by at most 1 in `max`. */
  readonly share: number
}

/** Hot keys from text that was saved; what is no hot key is left out. */
export function readHotKeys(text: string): HotKey[] {
  let read: unknown
  try {
    read = JSON.parse(text)
  } catch {
    return []
  }
  if (!Array.isArray(read)) return []
  return read.flatMap((one: { namespace?: unknown; key?: unknown; share?: unknown } | null) =>
    typeof one?.namespace === 'string' && typeof one.key === 'string' && typeof one.share === 'number'
      ? [{ namespace: one.namespace, key: one.key, share: one.share }]
      : [],
  )
}

/** Every so many gets, one is counted. */
export const sampleEvery = 64

/** After this many counted gets all counts are halved. */
const halveAfter = 65_536

export class HotKeys {
  readonly #max: number
  /** Namespace → key → place in the lists below. */
  readonly #places = new Map<string, Map<string, number>>()
  readonly #names: { readonly namespace: string; readonly key: string }[] = []
  /** In a list of its own, since the least of them is looked for at every key that is not followed. */
  readonly #counts: Uint32Array
  #total = 0

  constructor(max: number) {
    this.#max = max
    this.#counts = new Uint32Array(max)
  }

  note(namespace: string, key: string): void {
    let places = this.#places.get(namespace)
    if (places === undefined) {
      places = new Map()
      this.#places.set(namespace, places)
    }
    const place = places.get(key) ?? this.#follow(places, namespace, key)
    this.#counts[place] = (this.#counts[place] as number) + 1
    if (++this.#total >= halveAfter) this.#halve()
  }

  /** The hottest first. */
  top(count = this.#max): HotKey[] {
    return this.#names
      .map((name, place) => ({ ...name, share: (this.#counts[place] as number) / Math.max(this.#total, 1) }))
      .filter(({ share }) => share > 0)
      .sort((a, b) => b.share - a.share)
      .slice(0, count)
  }

  /** Takes a free place, or that of the least counted key, whose count the newcomer inherits. */
  #follow(places: Map<string, number>, namespace: string, key: string): number {
    let place = this.#names.length
    if (place === this.#max) {
      place = 0
      const counts = this.#counts
      for (let other = 1; other < counts.length; other++) {
        if ((counts[other] as number) < (counts[place] as number)) place = other
      }
      const gone = this.#names[place]
      if (gone !== undefined) this.#places.get(gone.namespace)?.delete(gone.key)
    }
    this.#names[place] = { namespace, key }
    places.set(key, place)
    return place
  }

  #halve(): void {
    this.#total = Math.floor(this.#total / 2)
    for (let place = 0; place < this.#counts.length; place++) this.#counts[place] = (this.#counts[place] as number) >>> 1
  }
}
