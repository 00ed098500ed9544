/** Transactions whose end is being asked for, and what the answer was. */
import { HeadraceError } from '../contracts/errors.ts'
import type { BranchEnd } from '../contracts/participant.ts'
import type { Finisher } from './finisher.ts'

/** Answers that are kept. */
const answersMax = 10_000

export class Settlements {
  readonly #finisher: Finisher
  readonly #known = new Map<string, Promise<BranchEnd | 'unknown'>>()

  constructor(finisher: Finisher) {
    this.#finisher = finisher
  }

  start(gid: string, ask: () => Promise<BranchEnd | 'unknown'>): Promise<BranchEnd | 'unknown'> {
    const asked = this.#finisher.keep(ask())
    const [oldest] = this.#known.keys()
    if (this.#known.size >= answersMax && oldest !== undefined) this.#known.delete(oldest)
    this.#known.set(gid, asked)
    return asked
  }

  /** How a transaction ended that was 'transaction-unknown'; waits until it is known. 'unknown' when it never will be from here. */
  end(gid: string): Promise<BranchEnd | 'unknown'> {
    const asked = this.#known.get(gid)
    if (asked !== undefined) return asked
    return Promise.reject(new HeadraceError('option-invalid', `'${gid}' is not a transaction of this coordinator whose end was unknown.`))
  }
}
