/**
 * Which of several stores a key lives in: rendezvous hashing ("highest random
 * weight", Thaler and Ravishankar, 1998). Taking one of n stores away moves the
 * keys of that one and no others, and they spread evenly.
 *
 * A store that is down keeps its keys: they are loaded from the database
 * meanwhile. Moving them would leave two stores with two floors for one key.
 */
import { hash32 } from '../std/hash.ts'

export class Ring<Member> {
  readonly #members: readonly { readonly member: Member; readonly seed: number }[]

  constructor(members: readonly Member[], nameOf: (member: Member) => string) {
    this.#members = members.map((member) => ({ member, seed: hash32(nameOf(member)) }))
  }

  of(key: string): Member {
    const [first, ...others] = this.#members
    if (first === undefined) throw new RangeError('A ring needs a member')
    if (others.length === 0) return first.member
    const keyHash = hash32(key)
    let best = first
    let bestWeight = mix(keyHash, first.seed)
    for (const candidate of others) {
      const weight = mix(keyHash, candidate.seed)
      if (weight <= bestWeight) continue
      best = candidate
      bestWeight = weight
    }
    return best.member
  }
}

/** The final mix of MurmurHash3 over both hashes. */
function mix(key: number, seed: number): number {
  let state = Math.imul(key ^ seed, 0x9e3779b1) ^ Math.imul(seed, 0x85ebca6b)
  state = Math.imul(state ^ (state >>> 16), 0x85ebca6b)
  state = Math.imul(state ^ (state >>> 13), 0xc2b2ae35)
  return (state ^ (state >>> 16)) >>> 0
}
