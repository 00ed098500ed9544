/**
 * Keys that are not applied for now, because a command of theirs failed.
 *
 * A key goes through these states:
 *   waiting   a failed command of the key is parked with everything behind it,
 *             until `retryAt`, or until somebody redrives or drops it (null);
 *   draining  the parked commands were given back to the lane, in order, and
 *             pass; what is newer is still parked until the last one is done.
 * A failure while draining starts a new waiting: the commands already given
 * back carry an older wakening, so they are parked again, under their own
 * positions. That keeps the order of the key, whatever fails how often.
 */
export interface BlockedKeyState {
  readonly partition: number
  retryAt: number | null
  /** Which wakening may pass. */
  wakening: number
  /** Commands of this wakening that are not done yet; 0 while waiting. */
  outstanding: number
  /** Whether more are parked behind this wakening. */
  more: boolean
  parked: number
  timer: NodeJS.Timeout | null
}

export class BlockedKeys {
  readonly #keys = new Map<string, BlockedKeyState>()
  readonly #wake: (key: string) => void
  #stopped = false

  /** `wake` is called when the time of a key has come. */
  constructor(wake: (key: string) => void) {
    this.#wake = wake
  }

  get(key: string): BlockedKeyState | undefined {
    return this.#keys.get(key)
  }

  /** Makes a key wait, from now until `retryAt` (null: until it is woken by hand). */
  wait(key: string, partition: number, retryAt: number | null, parked: number): void {
    const state = this.#keys.get(key) ?? { partition, retryAt, wakening: 1, outstanding: 0, more: false, parked: 0, timer: null }
    this.#keys.set(key, state)
    state.wakening += 1
    state.outstanding = 0
    state.retryAt = retryAt
    state.parked += parked
    this.#schedule(key, state)
  }

  /** Lets a key be woken at once. */
  hurry(key: string, partition: number): void {
    const state = this.#keys.get(key)
    if (state === undefined || state.outstanding === 0) this.wait(key, partition, Date.now(), 0)
    else state.more = true
  }

  /** The lane took `count` commands back. Returns the wakening they carry. */
  drain(key: string, count: number, more: boolean): number {
    const state = this.#keys.get(key)
    if (state === undefined) return 0
    state.retryAt = null
    state.outstanding = count
    state.more = more
    state.parked = Math.max(0, state.parked - count)
    if (count === 0) this.#drained(key, state)
    return state.wakening
  }

  /** One command that passed by this wakening is done. */
  done(key: string, wakening: number): void {
    const state = this.#keys.get(key)
    if (state === undefined || state.wakening !== wakening) return
    state.outstanding -= 1
    if (state.outstanding === 0) this.#drained(key, state)
  }

  parkedMore(key: string, count: number): void {
    const state = this.#keys.get(key)
    if (state === undefined) return
    state.parked += count
    state.more = true
  }

  stop(): void {
    this.#stopped = true
    for (const { timer } of this.#keys.values()) if (timer !== null) clearTimeout(timer)
  }

  #drained(key: string, state: BlockedKeyState): void {
    if (state.more) {
      state.more = false
      state.retryAt = Date.now()
      this.#schedule(key, state)
    } else this.#keys.delete(key)
  }

  #schedule(key: string, state: BlockedKeyState): void {
    if (state.timer !== null) clearTimeout(state.timer)
    state.timer = null
    if (state.retryAt === null || this.#stopped) return
    state.timer = setTimeout(() => {
      state.timer = null
      this.#wake(key)
    }, Math.max(0, state.retryAt - Date.now()))
  }
}
