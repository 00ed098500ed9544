/**
 * Sends a share of the commands a second time, with the same id and input, and
 * compares the two answers: a command that was decided once must be answered
 * alike, byte for byte, however often it is asked.
 *
 * Half of the repeats are due at once, so that they meet the first request in
 * flight; the others come up to `laterCommandsMax` commands later.
 */
import type { Random } from '../../std/random.ts'
import type { Answered, Job } from './answer.ts'

/** How many commands later a repeat comes at most. Bounds the memory: about this many times the share are held back. */
const laterCommandsMax = 2_000

export interface RepeatCounts {
  /** Repeats that were answered. */
  sent: number
  /** Repeats whose outcome was the same, byte for byte. */
  same: number
  /** Repeats whose outcome was another. Each is a defect. */
  different: number
  /** Repeats that could not be compared: one of the two requests has no outcome. */
  open: number
}

export interface Difference {
  readonly id: string
  readonly first: string
  readonly second: string
}

/** Differences kept for the report; more are only counted. */
const differencesMax = 10

export class Repeats {
  readonly counts: RepeatCounts = { sent: 0, same: 0, different: 0, open: 0 }
  readonly differences: Difference[] = []
  readonly #share: number
  readonly #random: Random
  readonly #ready: Job[] = []
  readonly #later = new Map<number, Job[]>()
  /** The first answer of a pair whose second is on its way; null for one without an outcome. */
  readonly #halves = new Map<number, string | null>()
  readonly #planned = new Set<number>()

  constructor(share: number, random: Random) {
    this.#share = share
    this.#random = random
  }

  /** Decides whether the command is sent again, and when. */
  plan(job: Job): void {
    if (this.#share === 0 || !this.#random.chance(this.#share)) return
    this.#planned.add(job.index)
    const again = { ...job, repeat: true }
    if (this.#random.chance(0.5)) {
      this.#ready.push(again)
      return
    }
    const due = job.index + 1 + this.#random.int(laterCommandsMax)
    const bucket = this.#later.get(due)
    if (bucket === undefined) this.#later.set(due, [again])
    else bucket.push(again)
  }

  /** Command `index` goes out now: what was held back until then becomes ready. */
  reach(index: number): void {
    const bucket = this.#later.get(index)
    if (bucket === undefined) return
    this.#later.delete(index)
    for (const job of bucket) this.#ready.push(job)
  }

  /** No more commands come: everything held back becomes ready. */
  reachEnd(): void {
    for (const index of [...this.#later.keys()].sort((a, b) => a - b)) this.reach(index)
  }

  next(now: number): Job | undefined {
    const job = this.#ready.shift()
    return job === undefined ? undefined : { ...job, dueAt: now }
  }

  /** Takes note of an answer, of the command itself or of its repeat, whichever comes first. */
  answered({ job, answer }: Answered): void {
    if (!this.#planned.has(job.index)) return
    if (job.repeat) this.counts.sent += 1
    const decided = answer.kind === 'committed' || answer.kind === 'rejected' || answer.kind === 'failed'
    const half = this.#halves.get(job.index)
    if (half === undefined) {
      this.#halves.set(job.index, decided ? answer.body : null)
      return
    }
    this.#halves.delete(job.index)
    this.#planned.delete(job.index)
    if (half === null || !decided) this.counts.open += 1
    else if (half === answer.body) this.counts.same += 1
    else {
      this.counts.different += 1
      if (this.differences.length < differencesMax) this.differences.push({ id: job.id, first: half, second: answer.body })
    }
  }
}
