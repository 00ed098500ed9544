/**
 * Kills a node at random moments of a run, spread over it, and starts it again.
 *
 * The moments are counts of answered commands, so a seed means the same on a
 * fast and on a slow machine. A short random pause follows, so that the kill
 * does not always hit the moment after an answer.
 */
import { pause } from '../../std/backoff.ts'
import type { Random } from '../../std/random.ts'

export interface Mortal {
  kill(): Promise<void>
  /** Resolves when it is ready again, with the milliseconds that took. */
  start(): Promise<number>
}

export interface Kill {
  /** Commands that had been answered. */
  readonly at: number
  /** From the kill until commands were taken again. */
  readonly downMs: number
}

/** Several as one: each kill hits the next of them. */
export function inTurn(mortals: readonly Mortal[]): Mortal {
  let next = 0
  let hit: Mortal | undefined
  return {
    async kill() {
      hit = mortals[next++ % mortals.length]
      await hit?.kill()
    },
    start: async () => (await hit?.start()) ?? 0,
  }
}

/** Longest pause between the moment and the kill, in milliseconds. */
const hesitationMsMax = 40

export class Killer {
  readonly kills: Kill[] = []
  readonly #node: Mortal
  readonly #random: Random
  readonly #moments: number[]
  #running: Promise<void> = Promise.resolve()
  #down = false

  constructor(node: Mortal, kills: number, commands: number, random: Random) {
    this.#node = node
    this.#random = random
    // One in each equal part of the run, away from the edges of the part.
    this.#moments = Array.from({ length: kills }, (_, index) => Math.floor((commands * (index + 0.1 + 0.8 * random.next())) / kills))
  }

  /** True while the node is down. */
  get down(): boolean {
    return this.#down
  }

  /** Tells how many commands are answered; kills when a moment has come. */
  answered(count: number): void {
    while (this.#moments.length > 0 && count >= (this.#moments[0] as number)) {
      this.#moments.shift()
      this.#running = this.#running.then(() => this.#kill(count))
      // Whoever waits for the end hears of the error.
      this.#running.catch(() => {})
    }
  }

  /** Resolves when every kill that has come up is made good. */
  settled(): Promise<void> {
    return this.#running
  }

  async #kill(at: number): Promise<void> {
    await pause(this.#random.next() * hesitationMsMax)
    const from = performance.now()
    this.#down = true
    await this.#node.kill()
    await this.#node.start()
    this.#down = false
    this.kills.push({ at, downMs: performance.now() - from })
  }
}
