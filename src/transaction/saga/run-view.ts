/** A stored run, as people and callers look at it. */
import type { StoredRun } from '../../contracts/saga.ts'
import type { RunView } from './orchestrator-contract.ts'
import type { RunError } from './records.ts'

export function errorOf(run: StoredRun): RunError {
  return run.error === null
    ? { branch: '', operation: '', code: 'saga-failed', message: 'No reason is known.' }
    : (JSON.parse(run.error) as RunError)
}

export function viewOf(run: StoredRun): RunView {
  const [kind = '', name = ''] = run.name.split('/')
  const { id, gid, status, owner, startedAt, changedAt } = run
  return {
    id,
    kind,
    name,
    gid,
    status,
    owner,
    startedAt,
    changedAt,
    input: JSON.parse(run.input) as unknown,
    error: run.error === null ? null : errorOf(run),
  }
}

export function namesOf({ id, name: stored }: Pick<StoredRun, 'id' | 'name'>): {
  readonly kind: string
  readonly name: string
  readonly id: string
} {
  const [kind = '', name = ''] = stored.split('/')
  return { kind, name, id }
}
