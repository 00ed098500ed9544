/**
 * Drops decisions and markers that nobody asks for any more, many with one call.
 *
 * What must hold: a decision goes before the markers that follow it. So whoever
 * finds a decision finds every marker of it too, and a marker that is missing
 * under a decision is proof that a person ended the branch.
 *
 * What must never be dropped here: an 'abort' that was put under a commit whose
 * connection was lost. The commit may still be on its way, and would then find
 * its place free. (It costs a row per such loss.)
 */
import { crashPoint } from '../std/crash-point.ts'
import type { TransactionClock } from './clock.ts'
import type { CoordinatorLimits } from './options.ts'
import type { Site } from './site.ts'

export interface Forgettable {
  readonly gid: string
  /** Whose decision goes; null when there is none to drop. */
  readonly home: string | null
  /** Whose markers go. */
  readonly participants: readonly string[]
}

export class Forgetter {
  readonly #site: Site
  readonly #limits: CoordinatorLimits
  readonly #clock: TransactionClock
  readonly #waiting = new Map<string, Forgettable>()
  readonly #stop = new AbortController()
  #loop: Promise<void> | null = null
  #rounds: Promise<void> = Promise.resolve()
  #dropped = 0

  constructor(site: Site, limits: CoordinatorLimits, clock: TransactionClock) {
    this.#site = site
    this.#limits = limits
    this.#clock = clock
  }

  get waiting(): number {
    return this.#waiting.size
  }

  /** Entries that found no room; recovery finds their decisions again. */
  get leftToRecovery(): number {
    return this.#dropped
  }

  has(gid: string): boolean {
    return this.#waiting.has(gid)
  }

  add(entry: Forgettable): void {
    if (this.#waiting.size >= this.#limits.forgetMax) {
      const [oldest] = this.#waiting.keys()
      this.#waiting.delete(oldest as string)
      this.#dropped += 1
    }
    this.#waiting.set(entry.gid, entry)
    if (!this.#stop.signal.aborted) this.#loop ??= this.#run()
  }

  /** One round over everything that waits. Failures stay for the next. */
  round(): Promise<void> {
    this.#rounds = this.#rounds.then(async () => {
      const entries = [...this.#waiting.values()]
      for (let from = 0; from < entries.length; from += this.#limits.forgetBatchMax) {
        await this.#drop(entries.slice(from, from + this.#limits.forgetBatchMax))
      }
    })
    return this.#rounds
  }

  async stop(): Promise<void> {
    this.#stop.abort()
    await this.#loop
  }

  async #run(): Promise<void> {
    while (this.#waiting.size > 0 && !this.#stop.signal.aborted) {
      await this.#clock.pause(this.#limits.forgetEveryMs, this.#stop.signal)
      await this.round()
    }
    this.#loop = null
  }

  async #drop(entries: readonly Forgettable[]): Promise<void> {
    crashPoint('transaction.before-forget')
    const kept = new Set<string>()
    await this.#each(
      entries.flatMap(({ gid, home }) => (home === null ? [] : [{ name: home, gid }])),
      kept,
    )
    const undecided = entries.filter(({ gid }) => !kept.has(gid))
    await this.#each(
      undecided.flatMap(({ gid, home, participants }) => participants.filter((name) => name !== home).map((name) => ({ name, gid }))),
      kept,
    )
    for (const { gid } of entries) if (!kept.has(gid)) this.#waiting.delete(gid)
  }

  async #each(drops: readonly { readonly name: string; readonly gid: string }[], kept: Set<string>): Promise<void> {
    const byName = new Map<string, string[]>()
    for (const { name, gid } of drops) byName.set(name, [...(byName.get(name) ?? []), gid])
    await Promise.all(
      [...byName].map(async ([name, gids]) => {
        try {
          await (this.#site.participants.get(name) ?? this.#site.logs.get(name))?.forget(gids)
        } catch {
          // Away: they wait for the next round.
          for (const gid of gids) kept.add(gid)
        }
      }),
    )
  }
}
