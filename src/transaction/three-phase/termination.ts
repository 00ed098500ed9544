/**
 * How three-phase commit ends without its coordinator: what participants do who
 * hear nothing more, alone or together.
 *
 * The point of the phase in between: nobody commits while another one may still
 * be uncertain. So the states that are there tell what must be done, as long as
 * processes stop and networks do not part. Two sides of a network that is parted
 * see different states, and may end differently: then three-phase commit is no
 * better than a guess, and TCC with a durable log is the right choice.
 *
 * After D. Skeen, "Nonblocking Commit Protocols" (1981).
 */

/**
 * - `unasked`: has not voted, or voted no.
 * - `waiting`: has voted yes, and knows no more.
 * - `pre-committed`: knows that all have voted yes.
 */
export type ThreePhaseState = 'unasked' | 'waiting' | 'pre-committed' | 'committed' | 'aborted'

/** What the participants that can be reached should do together, given the states of all of them. Those that are pre-committed first tell those that wait. */
export function terminate(states: readonly ThreePhaseState[]): 'commit' | 'abort' {
  if (states.includes('committed')) return 'commit'
  if (states.includes('aborted') || states.includes('unasked')) return 'abort'
  return states.includes('pre-committed') ? 'commit' : 'abort'
}

/** What a participant may do that hears nothing for its time, and reaches nobody; null when it has ended. Safe only when processes stop and networks do not part. */
export function onTimeout(state: ThreePhaseState): 'commit' | 'abort' | null {
  if (state === 'committed' || state === 'aborted') return null
  return state === 'pre-committed' ? 'commit' : 'abort'
}
