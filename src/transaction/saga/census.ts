/** Tells now and then how many runs of each definition are in the log; it asks for them only while somebody listens. */
import { type DiagnosticEvents, heard, tell } from '../../contracts/diagnostics.ts'
import type { RunCensus, SagaLog } from '../../contracts/saga.ts'
import { namesOf } from './run-view.ts'

export class Census {
  readonly #deployment: string
  readonly #names: readonly string[]
  readonly #everyMs: number
  #at = -Infinity

  constructor(deployment: string, names: readonly string[], everyMs: number) {
    this.#deployment = deployment
    this.#names = names
    this.#everyMs = everyMs
  }

  async tellWhenDue(log: SagaLog, now: number): Promise<void> {
    if (now - this.#at < this.#everyMs || !heard('headrace:saga-census')) return
    this.#at = now
    const found = await log.census(this.#names)
    tell('headrace:saga-census', () => ({ deployment: this.#deployment, runs: this.#lines(found) }))
  }

  /** A line for each name and status, those without a run included: what is gone is then told as 0. */
  #lines(found: readonly RunCensus[]): DiagnosticEvents['headrace:saga-census']['runs'] {
    const now = Date.now()
    return this.#names.flatMap((stored) =>
      (['running', 'parked'] as const).map((status) => {
        const { kind, name } = namesOf({ id: '', name: stored })
        const runs = found.find((each) => each.name === stored && each.status === status)
        return { kind, name, status, count: runs?.count ?? 0, oldestMs: runs === undefined ? 0 : Math.max(0, now - runs.oldestStartedAt) }
      }),
    )
  }
}
