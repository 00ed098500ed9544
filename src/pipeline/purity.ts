/**
 * Holds decide() to its word: a command that it rejects leaves nothing.
 *
 * Watching every change to the state would slow every command, so the batch is
 * checked as a whole. The state is serialized before the first decision. When
 * something was rejected, the accepted commands alone are decided once more
 * from that copy: the two ends must be alike. Only if they are not is every
 * rejected command looked at alone, to find the one to blame. The price is one
 * serialization per batch, and a second pass over batches with rejections.
 *
 * A state that cannot be cloned (functions, private fields) is not checked, and
 * a decide() that gives different ends from the same start (it uses a clock or
 * randomness) is checked one rejection at a time only while it blames somebody.
 */
import { isDeepStrictEqual } from 'node:util'
import { deserialize, serialize } from 'node:v8'

/** The state as it was, or null when it cannot be copied. */
export function snapshot(state: unknown): Buffer | null {
  try {
    return serialize(state)
  } catch {
    return null
  }
}

/**
 * Places in the batch of the rejected commands that changed the state; empty
 * when all is well.
 *
 * `decide(state, index)` decides the command at `index` on a state and says
 * whether it was accepted; `accepted[index]` is what it said the first time.
 */
export function impureRejections(
  before: Buffer,
  after: unknown,
  accepted: readonly boolean[],
  decide: (state: unknown, index: number) => boolean,
): number[] {
  if (!accepted.includes(false)) return []
  const replayed: unknown = deserialize(before)
  try {
    accepted.forEach((wasAccepted, index) => {
      if (wasAccepted) decide(replayed, index)
    })
    const end = snapshot(after)
    if (end?.equals(serialize(replayed)) === true) return []
    if (isDeepStrictEqual(replayed, after)) return []
  } catch {
    // A copy without its prototypes may not be decidable at all; then each rejection below is not either.
  }
  return blame(deserialize(before), accepted, decide)
}

function blame(state: unknown, accepted: readonly boolean[], decide: (state: unknown, index: number) => boolean): number[] {
  const found: number[] = []
  try {
    for (let index = 0; index < accepted.length; index++) {
      const before = accepted[index] === true ? null : serialize(state)
      const now = decide(state, index)
      if (before !== null && !now && !before.equals(serialize(state))) found.push(index)
    }
  } catch {
    return []
  }
  return found
}
