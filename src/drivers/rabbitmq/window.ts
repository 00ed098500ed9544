/**
 * How many messages may be published and not yet confirmed, found from what the
 * broker confirms.
 *
 * Too few leave the broker idle while a confirm is on its way; too many only
 * wait there, and are published again when the connection is lost. The rate
 * tells: it grows with the window up to what the broker can do, and not beyond.
 * So the window climbs that curve, in steps of two. A size is judged by a
 * *trial*: at least `trialMs`, and as many confirms as several windows hold or
 * `trialMsMax`, all the time with the window full, for one that is not the limit tells nothing.
 *
 * - *Growing*: it doubles as long as a trial has confirmed clearly more than the
 *   one before it; the step that brought nothing is taken back.
 * - *Holding*: after `holdTrials` it tries half, and the next time the double,
 *   so it follows a broker that has become slower or faster. Half stays when it
 *   confirms about as much; the double when it confirms clearly more, and then
 *   it goes on growing.
 *
 * Where both bounds are the same it never moves.
 */

export interface WindowBounds {
  readonly min: number
  readonly max: number
}

/** Where it begins, in messages: what a broker on a disk of its own needs. Too large costs little, and too small costs speed. */
const startSize = 1_024
/** Shortest trial, in milliseconds, and its confirms, in windows: confirms come in bunches. */
const trialMs = 80
const trialWindows = 3
/** Longest trial, in milliseconds, however few are confirmed. */
const trialMsMax = 1_000
/** A doubled window must confirm so much more to be kept, and a halved one may confirm so much less. */
const gain = 1.05
const loss = 0.99
/** Trials between two tries of another size. */
const holdTrials = 20

export class ConfirmWindow {
  readonly #bounds: WindowBounds
  #size: number
  #state: 'growing' | 'holding' | 'trying-half' = 'growing'
  /** The size to go back to, and what it confirmed in a millisecond; its rate is 0 before the first trial. */
  #known: { readonly size: number; readonly rate: number }
  #held = 0
  #halfIsNext = true
  /** The trial that runs; it begins with the first full window. */
  #since: number | null = null
  #confirmed = 0

  constructor(bounds: WindowBounds) {
    this.#bounds = bounds
    this.#size = this.#bounded(startSize)
    this.#known = { size: this.#size, rate: 0 }
  }

  /** Messages that may be unconfirmed. */
  get size(): number {
    return this.#size
  }

  /** Messages were confirmed. `full`: more of them wait to be published, so the window is what holds them back. */
  confirmed(count: number, full: boolean, now: number): void {
    if (this.#bounds.min === this.#bounds.max) return
    if (!full) {
      this.#since = null
      return
    }
    this.#confirmed += count
    if (this.#since !== null) {
      const ms = now - this.#since
      if (ms < trialMs || (ms < trialMsMax && this.#confirmed < this.#size * trialWindows)) return
      this.#judge({ size: this.#size, rate: this.#confirmed / ms })
    }
    this.#since = now
    this.#confirmed = 0
  }

  #judge(trial: { readonly size: number; readonly rate: number }): void {
    const known = this.#known
    switch (this.#state) {
      case 'growing':
        if (trial.rate > known.rate * gain) this.#grow(trial)
        else this.#hold(known)
        return
      case 'trying-half':
        this.#hold(trial.rate > known.rate * loss ? trial : known)
        return
      case 'holding':
        this.#known = { size: trial.size, rate: known.rate + (trial.rate - known.rate) / 4 }
        this.#held += 1
        if (this.#held >= holdTrials) this.#try()
    }
  }

  #grow(trial: { readonly size: number; readonly rate: number }): void {
    this.#known = trial
    this.#size = this.#bounded(trial.size * 2)
    if (this.#size === trial.size) this.#hold(trial)
  }

  #hold(known: { readonly size: number; readonly rate: number }): void {
    this.#state = 'holding'
    this.#known = known
    this.#size = known.size
    this.#held = 0
  }

  #try(): void {
    const isHalf = this.#halfIsNext
    this.#halfIsNext = !isHalf
    this.#held = 0
    const size = this.#bounded(isHalf ? this.#size / 2 : this.#size * 2)
    if (size === this.#size) return
    this.#size = size
    this.#state = isHalf ? 'trying-half' : 'growing'
  }

  #bounded(size: number): number {
    return Math.min(this.#bounds.max, Math.max(this.#bounds.min, Math.round(size)))
  }
}
