/**
 * Keys that are not applied for now, because a command of theirs failed.
 *
 * A key goes through these states:
 *   waiting   a failed command of the key is parked with everything behind it,
 *             until `retryAt`, or until somebody redrives or drops it (null);
 *   draining  parked commands were given back to the lane, in order, and pass;
 *             what is newer is still parked until the last one is done.
 *
 * A failure while draining starts a new waiting: the commands already given
 * back carry an older wakening, so they are parked again, under their own
 * positions. Until the last of them is, nothing more is given back, since that
 * would stand in front of them. So the order of the key is kept, whatever fails
 * how often.
 */
export interface BlockedKeyState {
  readonly partition: number
  waiting: boolean
  retryAt: number | null
  /** Which wakening may pass. */
  wakening: number
  /** Commands given back that are neither done nor parked again. */
  outstanding: number
  /** Its time came while some were outstanding. */
  due: boolean
  /** Whether more are parked than the lane took. */
  more: boolean
  parked: number
  timer: NodeJS.Timeout | null
}

export class BlockedKeys {
  readonly #keys = new Map<string, BlockedKeyState>()
  readonly #wake: (key: string) => void
  /** Never given twice, so that no command passes by the wakening of an earlier blocking of its key. */
  #wakening = 0
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
    const state = this.#keys.get(key) ?? {
      partition,
      waiting: true,
      retryAt,
      wakening: 0,
      outstanding: 0,
      due: false,
      more: false,
      parked: 0,
      timer: null,
    }
    this.#keys.set(key, state)
    this.#wakening += 1
    state.wakening = this.#wakening
    state.due = false
    state.parked += parked
    this.#waitUntil(key, state, retryAt)
  }

  /** Lets a key be woken at once. */
  hurry(key: string, partition: number): void {
    const state = this.#keys.get(key)
    if (state === undefined) return this.wait(key, partition, Date.now(), 0)
    state.more = true
    if (state.waiting) this.#waitUntil(key, state, Date.now())
  }

  /** What `mayDrain` allowed could not be done: the key waits on, until `retryAt`. */
  postpone(key: string, retryAt: number): void {
    const state = this.#keys.get(key)
    if (state === undefined) return
    state.more = true
    this.#waitUntil(key, state, retryAt)
  }

  /**
   * Whether the lane may take parked commands back now: not while any that were
   * given back before are outstanding. When it may, `drain` follows, with what
   * the storage had parked.
   */
  mayDrain(key: string): boolean {
    const state = this.#keys.get(key)
    if (state === undefined) return false
    if (!state.waiting) state.more = true
    else if (state.outstanding > 0) state.due = true
    else {
      state.more = false
      return true
    }
    return false
  }

  /** The lane took `count` commands back. Returns the wakening they carry. */
  drain(key: string, count: number, more: boolean): number {
    const state = this.#keys.get(key)
    if (state === undefined) return 0
    state.waiting = false
    this.#schedule(key, state, null)
    state.outstanding = count
    state.more ||= more
    state.parked = Math.max(0, state.parked - count)
    if (count === 0) this.#drained(key, state)
    return state.wakening
  }

  /** One command that was given back is done, or was parked again. */
  done(key: string): void {
    const state = this.#keys.get(key)
    if (state === undefined) return
    state.outstanding -= 1
    if (state.outstanding > 0) return
    if (!state.waiting) this.#drained(key, state)
    else if (state.due) this.#waitUntil(key, state, Date.now())
  }

  /** A command was parked behind others of its key. They may be done by now: then its time has come. */
  parkedMore(key: string, partition: number): void {
    const state = this.#keys.get(key)
    if (state === undefined) return this.wait(key, partition, Date.now(), 1)
    state.parked += 1
    state.more = true
  }

  stop(): void {
    this.#stopped = true
    for (const { timer } of this.#keys.values()) if (timer !== null) clearTimeout(timer)
  }

  #drained(key: string, state: BlockedKeyState): void {
    if (state.more) this.#waitUntil(key, state, Date.now())
    else this.#keys.delete(key)
  }

  #waitUntil(key: string, state: BlockedKeyState, retryAt: number | null): void {
    state.waiting = true
    this.#schedule(key, state, retryAt)
  }

  #schedule(key: string, state: BlockedKeyState, retryAt: number | null): void {
    state.retryAt = retryAt
    if (state.timer !== null) clearTimeout(state.timer)
    state.timer = null
    if (retryAt === null || this.#stopped) return
    state.timer = setTimeout(
      () => {
        state.timer = null
        this.#wake(key)
      },
      Math.max(0, retryAt - Date.now()),
    )
  }
}
