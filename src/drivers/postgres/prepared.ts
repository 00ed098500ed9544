/**
 * Statements that a connection keeps parsed and planned, by their text.
 *
 * What must hold:
 * - the server keeps at most so many for a connection as the option says, and a
 *   few that are about to be closed;
 * - a name is used without its text only when the server has confirmed it: what
 *   was sent in a message that failed may be there or not, so it is closed and
 *   parsed again (closing what is not there is no error);
 * - a plan does not outlive the table that it was made for: after a change of a
 *   table that the server reports (SQLSTATE 0A000), all plans of all connections
 *   are made anew; and every plan after a while, since what was right for an
 *   empty table is not for a full one.
 */

/** How long a plan is used, in milliseconds. */
const planAgeMaxMs = 30_000

/** What all connections of a participant share. */
export class Plans {
  /** Statements kept per connection; 0: none. */
  readonly statementsMax: number
  #generation = 0

  constructor(statementsMax: number) {
    this.statementsMax = statementsMax
  }

  get generation(): number {
    return this.#generation
  }

  /** A table has changed: no plan is used again. */
  renew(): void {
    this.#generation += 1
  }
}

interface Kept {
  readonly name: string
  /** 'sent': not answered yet. 'doubtful': it may be there or not. */
  state: 'sent' | 'ready' | 'doubtful'
  generation: number
  usedUntil: number
}

/** How a statement goes into a message. */
export interface Use {
  /** Empty: not kept. */
  readonly name: string
  readonly parse: boolean
  /** Told to `confirm` or `doubt` when the message is answered; null: nothing is. */
  readonly kept: Kept | null
}

const unkept: Use = { name: '', parse: true, kept: null }

export class PreparedStatements {
  readonly #plans: Plans
  /** The one that was used last comes last. */
  readonly #byText = new Map<string, Kept>()
  /** Names that the server may have and nobody uses. */
  #unused: string[] = []
  #numbers = 0

  constructor(plans: Plans) {
    this.#plans = plans
  }

  use(text: string): Use {
    const { statementsMax, generation } = this.#plans
    if (statementsMax === 0) return unkept
    const now = performance.now()
    const known = this.#byText.get(text)
    // Its first use is on the way, and may fail.
    if (known?.state === 'sent') return unkept
    if (known?.state === 'ready' && known.generation === generation && now < known.usedUntil) {
      this.#byText.delete(text)
      this.#byText.set(text, known)
      return { name: known.name, parse: false, kept: null }
    }
    if (known !== undefined) {
      this.#byText.delete(text)
      this.#unused.push(known.name)
    } else if (this.#byText.size >= statementsMax && !this.#dropOldest()) return unkept
    const kept: Kept = { name: `headrace_${this.#numbers++}`, state: 'sent', generation, usedUntil: now + planAgeMaxMs }
    this.#byText.set(text, kept)
    return { name: kept.name, parse: true, kept }
  }

  /** Names to close ahead of the next message; told to `closed` when that message came through. */
  get unused(): readonly string[] {
    return this.#unused
  }

  closed(names: readonly string[]): void {
    if (names.length > 0) this.#unused = this.#unused.filter((name) => !names.includes(name))
  }

  confirm(uses: readonly Use[]): void {
    for (const { kept } of uses) if (kept !== null) kept.state = 'ready'
  }

  doubt(uses: readonly Use[]): void {
    for (const { kept } of uses) if (kept !== null) kept.state = 'doubtful'
  }

  /** The server has forgotten some of them: somebody else has closed them on this connection. */
  doubtAll(): void {
    for (const kept of this.#byText.values()) if (kept.state === 'ready') kept.state = 'doubtful'
  }

  #dropOldest(): boolean {
    for (const [text, { name, state }] of this.#byText) {
      if (state === 'sent') continue
      this.#byText.delete(text)
      this.#unused.push(name)
      return true
    }
    return false
  }
}
