/**
 * Whom a publisher waits for. A wait is over when every node that holds trust
 * has said that it applied the message, or its trust has run out: then it has
 * either seen the message or stopped trusting its L1.
 *
 * While an epoch is younger than the trust may be, there can be nodes that are
 * not in its list: then as many nodes must answer as have heard the message.
 */
import { type Deferred, deferred } from '../../std/deferred.ts'

const sweepMs = 10

interface Wait {
  readonly number: number
  /** Node → the moment its trust is over. */
  readonly nodes: Map<string, number>
  /** Answers still needed from nodes whether or not they are in the list, until `unlistedUntil`. */
  readonly unlisted: { readonly needed: number; readonly until: number; readonly heard: Set<string> }
  readonly done: Deferred<void>
}

export class BusWaits {
  readonly #waits = new Set<Wait>()
  /** The last message of the epoch that each node has applied: an answer may overtake that of the server. */
  readonly #applied = new Map<string, number>()
  #epoch = ''
  #timer: NodeJS.Timeout | undefined

  /** Resolves when the wait is over; never rejects. */
  until(
    epoch: string,
    number: number,
    nodes: ReadonlyMap<string, number>,
    unlisted: { readonly needed: number; readonly until: number },
  ): Promise<void> {
    this.#begin(epoch)
    const heard = new Set<string>()
    const open = new Map<string, number>()
    for (const [node, trustUntil] of nodes) {
      if ((this.#applied.get(node) ?? 0) < number) open.set(node, trustUntil)
    }
    for (const [node, applied] of this.#applied) {
      if (applied >= number) heard.add(node)
    }
    const wait: Wait = { number, nodes: open, unlisted: { ...unlisted, heard }, done: deferred() }
    if (isOver(wait, performance.now())) return Promise.resolve()
    this.#waits.add(wait)
    this.#timer ??= setInterval(() => this.#sweep(), sweepMs)
    return wait.done.promise
  }

  applied(epoch: string, node: string, number: number): void {
    this.#begin(epoch)
    if ((this.#applied.get(node) ?? 0) >= number) return
    this.#applied.set(node, number)
    for (const wait of this.#waits) {
      if (wait.number > number) continue
      wait.nodes.delete(node)
      wait.unlisted.heard.add(node)
    }
    this.#sweep()
  }

  close(): void {
    for (const { done } of this.#waits) done.resolve()
    this.#waits.clear()
    clearInterval(this.#timer)
    this.#timer = undefined
  }

  /** Numbers begin anew with an epoch; the waits of an older one end with the trust they wait for. */
  #begin(epoch: string): void {
    if (epoch === this.#epoch) return
    this.#epoch = epoch
    this.#applied.clear()
  }

  #sweep(): void {
    const now = performance.now()
    for (const wait of this.#waits) {
      for (const [node, trustUntil] of wait.nodes) {
        if (trustUntil <= now) wait.nodes.delete(node)
      }
      if (!isOver(wait, now)) continue
      this.#waits.delete(wait)
      wait.done.resolve()
    }
    if (this.#waits.size > 0) return
    clearInterval(this.#timer)
    this.#timer = undefined
  }
}

function isOver({ nodes, unlisted }: Wait, now: number): boolean {
  return nodes.size === 0 && (unlisted.heard.size >= unlisted.needed || unlisted.until <= now)
}
