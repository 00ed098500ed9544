/** What the client itself knows of every order: when it sent it, and what it was answered. Flat arrays, so that millions fit. */
import { hash53 } from '../../std/hash.ts'
import type { Answered, AnswerKind } from '../load/answer.ts'

/** No answer yet. */
type Known = AnswerKind | 'none'
const kinds: readonly Known[] = ['none', 'committed', 'rejected', 'failed', 'pending', 'problem', 'transport']

export class SaleRecord {
  readonly orders: number
  /** Of order i: the position in its outcome; NaN without one. */
  readonly positionOf: Float64Array
  /** Monotonic milliseconds: first sent, last answered. */
  readonly sentAt: Float64Array
  readonly answeredAt: Float64Array
  /** Of order i: a hash of the body it was answered with. */
  readonly bodyHashOf: Float64Array
  readonly #kindOf: Uint8Array
  readonly #codeOf: Uint16Array
  readonly #codes: string[] = ['']

  constructor(orders: number) {
    this.orders = orders
    this.positionOf = new Float64Array(orders).fill(Number.NaN)
    this.sentAt = new Float64Array(orders).fill(Number.NaN)
    this.answeredAt = new Float64Array(orders).fill(Number.NaN)
    this.bodyHashOf = new Float64Array(orders)
    this.#kindOf = new Uint8Array(orders)
    this.#codeOf = new Uint16Array(orders)
  }

  /** Takes note of the answer to the order itself; repeats are compared elsewhere. */
  add({ job, answer, sentAt, answeredAt }: Answered): void {
    if (job.repeat) return
    this.sentAt[job.index] = sentAt
    this.answeredAt[job.index] = answeredAt
    this.bodyHashOf[job.index] = hash53(answer.body)
    this.set(job.index, answer.kind, answer.code, answer.position)
  }

  /** Sets what became of an order, as when a pending one was looked up later. */
  set(index: number, kind: AnswerKind, code: string | null, position: number | null): void {
    this.#kindOf[index] = kinds.indexOf(kind)
    this.positionOf[index] = position ?? Number.NaN
    if (code === null) {
      this.#codeOf[index] = 0
      return
    }
    let known = this.#codes.indexOf(code)
    if (known === -1) known = this.#codes.push(code) - 1
    this.#codeOf[index] = known
  }

  kindOf(index: number): Known {
    return kinds[this.#kindOf[index] as number] as Known
  }

  codeOf(index: number): string | null {
    const code = this.#codeOf[index] as number
    return code === 0 ? null : (this.#codes[code] as string)
  }

  count(kind: Known): number {
    const wanted = kinds.indexOf(kind)
    let count = 0
    for (const value of this.#kindOf) if (value === wanted) count += 1
    return count
  }
}
