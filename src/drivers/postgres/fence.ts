/**
 * The guard in PostgreSQL: a write under an old token is refused in the same
 * transaction, whatever its writer believes about its lock.
 *
 * The guard is the first statement of the transaction. It keeps the row of the
 * key until the end, so a transaction under an older token cannot slip in
 * between the guard and the commit, and one under a newer token reads what this
 * one wrote.
 */
import type { PoolClient } from 'pg'
import { HeadraceError } from '../../contracts/errors.ts'
import { FencedError, type Fenceable } from '../../contracts/lock.ts'

/** The part of a `pg` client that is used here. */
export interface PostgresFenceClient {
  query(text: string, values?: unknown[]): Promise<{ readonly rows: readonly Record<string, unknown>[] }>
}

/** The table of the guard; run it once, in a migration. */
export const postgresFenceSql = 'create table if not exists headrace_fence (resource text collate "C" primary key, token bigint not null)'

const guard = `
with asked as (select * from unnest($1::text[], $2::bigint[]) as asked (resource, token) order by resource),
passed as (
  insert into headrace_fence as seen (resource, token) select resource, token from asked
  on conflict (resource) do update set token = excluded.token where seen.token <= excluded.token
  returning resource
)
select resource, token from asked where resource not in (select resource from passed)`

/** A statement of its own: the one above may not see what it had to wait for. */
const read = 'select token from headrace_fence where resource = $1'

/**
 * Refuses the transaction that `client` is in when a token of the lease is older
 * than one that this database has seen. Call it first, before anything is read.
 *
 * Throws `FencedError`: roll back, nothing may be written.
 */
export async function postgresFence(client: PostgresFenceClient, lease: Fenceable): Promise<void> {
  const status = (client as { getTransactionStatus?: () => string }).getTransactionStatus?.()
  if (status === 'I') throw new HeadraceError('sql-failed', 'The guard must run inside a transaction: send BEGIN first.')
  const keys = [...lease.tokens.keys()].sort()
  try {
    const { rows } = await client.query(guard, [keys, keys.map((key) => lease.tokens.get(key))])
    const [refused] = rows
    if (refused === undefined) return
    const { rows: seen } = await client.query(read, [refused['resource']])
    throw new FencedError(
      String(refused['resource']),
      Number(refused['token']),
      seen[0] === undefined ? undefined : Number(seen[0]['token']),
    )
  } catch (error) {
    if ((error as { code?: string }).code !== '42P01') throw error
    throw new HeadraceError('sql-failed', 'The table headrace_fence is missing: run postgresFenceSql once, in a migration.')
  }
}

/**
 * Runs `run` in a transaction that begins with the guard, and commits it.
 * Rolls back, and rejects with the error, when the guard or `run` throws.
 */
export async function postgresFenced<T>(
  pool: { connect(): Promise<PoolClient> },
  lease: Fenceable,
  run: (client: PoolClient) => Promise<T>,
): Promise<T> {
  const client = await pool.connect()
  let broken = false
  try {
    await client.query('begin')
    await postgresFence(client, lease)
    const result = await run(client)
    await client.query('commit')
    return result
  } catch (error) {
    await client.query('rollback').catch(() => {
      broken = true
    })
    throw error
  } finally {
    client.release(broken)
  }
}
