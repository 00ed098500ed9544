/**
 * Which processes live, as far as this one can see: without comparing clocks.
 * A process counts its beats in the log; one whose count stays the same for
 * `leaseMs` of our own monotonic time is taken for dead. To be wrong about that
 * costs a call that is made twice, never two writers: epochs see to that.
 */
import type { OwnerBeat } from '../../contracts/saga.ts'

interface Seen {
  readonly beats: number
  /** When the count was first seen, by our clock. */
  readonly since: number
}

export class Ownership {
  readonly owner: string
  readonly #leaseMs: number
  /** What the names of our own earlier lives start with. */
  readonly #earlier: string | null
  #seen = new Map<string, Seen>()

  constructor(owner: string, leaseMs: number, earlier: string | null) {
    this.owner = owner
    this.#leaseMs = leaseMs
    this.#earlier = earlier
  }

  /** Owners whose runs may be taken over. */
  dead(beats: readonly OwnerBeat[], now: number): string[] {
    const before = this.#seen
    this.#seen = new Map()
    const dead: string[] = []
    for (const { owner, beats: count } of beats) {
      if (owner === this.owner) continue
      const known = before.get(owner)
      const seen = known?.beats === count ? known : { beats: count, since: now }
      this.#seen.set(owner, seen)
      const wasMe = this.#earlier !== null && owner.startsWith(this.#earlier)
      if (wasMe || now - seen.since >= this.#leaseMs) dead.push(owner)
    }
    return dead
  }
}
