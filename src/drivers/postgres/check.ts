/** What would go wrong later with a PostgreSQL database, said now. */
import type { Finding } from '../../contracts/participant.ts'
import type { Connection } from './connection.ts'
import { ownTables, tableRights, tablesVersion } from './schema.ts'

/** The oldest server that the statements here are written for. */
const versionMin = 120_000
/** Fewer prepared transactions than this run full with a few lanes. */
const preparedFew = 16
/** A prepared transaction that is older than this, in minutes, is one that nobody ends. */
const orphanMinutes = 5

const settingsQuery = `select current_setting('server_version') as version, current_setting('server_version_num')::int as version_num,
  current_setting('max_prepared_transactions')::int as prepared_max, pg_is_in_recovery() as standby,
  current_setting('default_transaction_read_only') = 'on' as read_only, current_setting('fsync') = 'off' as no_fsync,
  current_database() as database, current_user as account`

const tablesQuery = `select wanted.name, to_regclass(wanted.name) is not null as present,
  coalesce(has_table_privilege(to_regclass(wanted.name), wanted.rights), true) as allowed
from unnest($1::text[], $2::text[]) as wanted (name, rights)`

export const checkOrphans = `select count(*)::int as number, min(gid) as gid, min(owner) as owner from pg_prepared_xacts
where database = current_database() and prepared < now() - make_interval(mins => $1::int)`

export async function checkPostgres(name: string, connection: Connection, deadlineMs: number): Promise<Finding[]> {
  const findings: Finding[] = []
  const say = (finding: string, level: Finding['level'], message: string, remedy?: string): void => {
    findings.push({ name: finding, level, message: `PostgreSQL '${name}' ${message}`, ...(remedy === undefined ? {} : { remedy }) })
  }
  const query = async (text: string, values: readonly unknown[] = []) =>
    (await connection.query(text, values, 'call', deadlineMs)).rows as Record<string, string | number | boolean | null>[]

  const [server] = await query(settingsQuery)
  const { version, version_num, prepared_max, standby, read_only, no_fsync, database, account } = server ?? {}
  if (Number(version_num) < versionMin) say('version', 'error', `is of version ${version}.`, 'Use PostgreSQL 12 or newer.')
  else say('version', 'ok', `answers: version ${version}, database ${database}, user ${account}.`)

  if (standby === true || read_only === true)
    say('writable', 'error', standby === true ? 'is a standby: it takes no writes.' : 'is read-only.', 'Use the url of the primary.')

  if (prepared_max === 0)
    say(
      'prepare',
      'error',
      'has max_prepared_transactions = 0, so it cannot take part with other databases.',
      'Set max_prepared_transactions to at least the number of lanes times 4, and restart it.',
    )
  else if (Number(prepared_max) < preparedFew)
    say(
      'prepare',
      'warning',
      `holds at most ${prepared_max} prepared transactions.`,
      'Set max_prepared_transactions to at least the number of lanes times 4, and restart it.',
    )
  else say('prepare', 'ok', `holds up to ${prepared_max} prepared transactions.`)

  if (no_fsync === true) say('durability', 'warning', 'has fsync = off: a power cut loses or damages data.', 'Set fsync = on.')

  await checkTables(query, say)

  const [orphans] = await query(checkOrphans, [orphanMinutes])
  if (Number(orphans?.['number'] ?? 0) > 0)
    say(
      'orphans',
      'warning',
      `has ${orphans?.['number']} prepared transactions older than ${orphanMinutes} minutes, such as '${orphans?.['gid']}' of ${orphans?.['owner']}: they hold locks, and keep VACUUM from cleaning up.`,
      'Headrace ends its own: headrace tx ls. Others: select * from pg_prepared_xacts, then COMMIT PREPARED or ROLLBACK PREPARED.',
    )
  const order = { error: 0, warning: 1, ok: 2 }
  return findings.sort((a, b) => order[a.level] - order[b.level])
}

async function checkTables(
  query: (text: string, values?: readonly unknown[]) => Promise<Record<string, string | number | boolean | null>[]>,
  say: (finding: string, level: Finding['level'], message: string, remedy?: string) => void,
): Promise<void> {
  const wanted = ownTables.flatMap((table) => tableRights[table].map((right) => [table, right] as const))
  const rows = await query(tablesQuery, [wanted.map(([table]) => table), wanted.map(([, right]) => right)])
  const missing = ownTables.filter((table) => rows.some((row) => row['name'] === table && row['present'] === false))
  if (missing.length > 0) {
    say('tables', 'error', `lacks ${missing.join(', ')}.`, 'Run headrace migrate with an account that may create tables.')
    return
  }
  const refused = wanted.filter((_, place) => rows[place]?.['allowed'] === false)
  if (refused.length > 0) {
    say(
      'rights',
      'error',
      `does not allow its user ${refused.map(([table, right]) => `${right} on ${table}`).join(', ')}.`,
      refused.map(([table, right]) => `GRANT ${right.toUpperCase()} ON ${table} TO …;`).join(' '),
    )
    if (refused.some(([table]) => table === 'headrace_meta')) return
  }
  const [meta] = await query(`select value from headrace_meta where name = 'tables'`)
  const found = Number(meta?.['value'] ?? 0)
  if (found !== tablesVersion)
    say(
      'tables',
      'error',
      `has Headrace's tables (headrace_…) of version ${found}; this Headrace needs version ${tablesVersion}.`,
      found < tablesVersion ? 'Run headrace migrate.' : 'Use the newer Headrace that made them.',
    )
  else if (refused.length === 0) say('tables', 'ok', `has Headrace's tables, version ${found}, and its user may use them.`)
}
