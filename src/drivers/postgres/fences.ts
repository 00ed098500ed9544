/** The epochs of partitions (headrace_partition): made and raised, never lowered. */
import { HeadraceError } from '../../contracts/errors.ts'
import type { Fence } from '../../contracts/participant.ts'

const raise = `insert into headrace_partition as seen (deployment, partition, epoch)
select deployment, partition, epoch from unnest($1::text[], $2::int[], $3::bigint[]) as asked (deployment, partition, epoch) order by 1, 2
on conflict (deployment, partition) do update set epoch = excluded.epoch where seen.epoch <= excluded.epoch`

/** Changes as many rows as there are fences, unless one of them is too low. */
export function raiseStatement(fences: readonly Fence[]): { readonly text: string; readonly values: readonly unknown[] } {
  return {
    text: raise,
    values: [fences.map(({ deployment }) => deployment), fences.map(({ partition }) => partition), fences.map(({ epoch }) => epoch)],
  }
}

export function fencedError(name: string, { deployment, partition, epoch }: Fence, highest?: number): HeadraceError {
  return new HeadraceError(
    'fenced',
    `PostgreSQL '${name}' has seen a higher epoch of a partition (${deployment}/${partition}) than ${epoch}${highest === undefined ? '' : `: ${highest}`}. Stop this node; the newer owner carries on.`,
    { details: { database: name, deployment, partition, epoch, ...(highest === undefined ? {} : { highest }) } },
  )
}
