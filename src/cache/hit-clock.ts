/**
 * A clock of whole milliseconds that costs little, for hits: reading the real one costs more than all
 * the rest of a hit. It stands still within one turn of the event loop, and for
 * `readsMax` reads at most, so that a long loop without a turn sees time pass.
 *
 * A value may so be served for the rest of the turn in which its time ends. What
 * must be exact (trust in L1) does not go by this clock.
 */
import { wholeMs } from './entry.ts'

const readsMax = 32

export class HitClock {
  readonly #now: () => number
  #at = 0
  #reads = 0
  #turn: NodeJS.Immediate | null = null

  constructor(now: () => number) {
    this.#now = now
  }

  now(): number {
    if (this.#reads > 0) {
      this.#reads--
      return this.#at
    }
    this.#at = wholeMs(this.#now())
    this.#reads = readsMax - 1
    this.#turn ??= setImmediate(this.#endTurn)
    return this.#at
  }

  readonly #endTurn = (): void => {
    this.#turn = null
    this.#reads = 0
  }
}
