/** What would fail later, found now: one look at each thing that the participant relies on. */
import { HeadraceError } from '../../contracts/errors.ts'
import type { Finding, FindingLevel } from '../../contracts/participant.ts'
import { preparedOn } from './prepared.ts'
import { rowsOf } from './rows.ts'
import { ownTables, tablesVersion } from './schema.ts'
import type { Session } from './session.ts'

const levels: readonly FindingLevel[] = ['error', 'warning', 'ok']
/** Names of tables or branches that a finding lists. */
const namesMax = 10

type Ask = (text: string) => Promise<Readonly<Record<string, unknown>>[]>

export async function checkDatabase(
  name: string,
  address: string,
  aside: <T>(run: (session: Session) => Promise<T>) => Promise<T>,
  timeoutMs: number,
): Promise<Finding[]> {
  const findings: Finding[] = []
  try {
    await aside(async (session) => {
      const ask: Ask = async (text) => rowsOf((await session.run(text, { timeoutMs, own: true, shape: text }))[0])
      findings.push({ name: 'reachable', level: 'ok', message: `MySQL '${name}' answers at ${address}.` })
      for (const look of [version, tables, rights, xaRights, readOnly, durability, binlog, engines])
        findings.push(...(await look(ask, name)))
    })
  } catch (error) {
    if (!HeadraceError.is(error)) throw error
    findings.push({ name: 'reachable', level: 'error', message: error.message })
  }
  return findings.sort((a, b) => levels.indexOf(a.level) - levels.indexOf(b.level))
}

async function version(ask: Ask, name: string): Promise<Finding[]> {
  const [row] = await ask('select version() as version')
  const text = String(row?.['version'])
  const mariadb = /mariadb/i.test(text)
  const [major = 0, minor = 0, patch = 0] = (/(\d+)\.(\d+)\.(\d+)/.exec(text) ?? []).slice(1).map(Number)
  const number = major * 10_000 + minor * 100 + patch
  const enough = number >= (mariadb ? 100_502 : 80_000)
  return [
    enough
      ? { name: 'version', level: 'ok', message: `MySQL '${name}' is ${text}.` }
      : {
          name: 'version',
          level: 'error',
          message: `MySQL '${name}' is ${text}, which may lose a prepared branch when its connection ends.`,
          remedy: 'Use MariaDB 10.5.2 or newer, or MySQL 8.0 or newer.',
        },
  ]
}

async function tables(ask: Ask, name: string): Promise<Finding[]> {
  const list = ownTables.map((table) => `'${table}'`).join(', ')
  const rows = await ask(
    `select table_name as name, engine as engine from information_schema.tables where table_schema = database() and table_name in (${list})`,
  )
  const missing = ownTables.filter((table) => !rows.some((row) => row['name'] === table))
  if (missing.length > 0)
    return [
      {
        name: 'tables',
        level: 'error',
        message: `MySQL '${name}' lacks the tables ${missing.join(', ')}.`,
        remedy: 'Run headrace migrate with an account that may create tables.',
      },
    ]
  const other = rows
    .filter((row) => String(row['engine']).toLowerCase() !== 'innodb')
    .map((row) => `${String(row['name'])} (${String(row['engine'])})`)
  if (other.length > 0)
    return [
      {
        name: 'tables',
        level: 'error',
        message: `Tables of Headrace in MySQL '${name}' are not InnoDB: ${other.join(', ')}.`,
        remedy: 'alter table … engine=InnoDB.',
      },
    ]
  const [row] = await ask("select value from headrace_meta where name = 'version'")
  const found = Number(row?.['value'] ?? 0)
  if (found === tablesVersion) return [{ name: 'tables', level: 'ok', message: `The tables of Headrace have version ${found}.` }]
  return [
    {
      name: 'tables',
      level: 'error',
      message: `The tables headrace_… of MySQL '${name}' have version ${found}, and this Headrace needs ${tablesVersion}.`,
      remedy: found < tablesVersion ? 'Run headrace migrate; it upgrades them in place.' : 'Use the newer Headrace.',
    },
  ]
}

/** Statements that change nothing, and need the rights all the same. */
async function rights(ask: Ask, name: string): Promise<Finding[]> {
  const refused: string[] = []
  for (const table of ownTables) {
    const column = table === 'headrace_meta' ? 'name' : table === 'headrace_partition' ? 'epoch' : 'gid'
    const statements = [`select ${column} from ${table} where false`]
    if (table !== 'headrace_meta')
      statements.push(
        `insert into ${table} select * from ${table} where false`,
        `update ${table} set ${column} = ${column} where false`,
        ...(table === 'headrace_partition' ? [] : [`delete from ${table} where false`]),
      )
    for (const text of statements) {
      try {
        await ask(text)
      } catch (error) {
        if (!HeadraceError.is(error) || error.code === 'engine-unavailable') throw error
        // That they are missing, or the server read-only, is a finding of its own.
        if (error.code === 'engine-refused' && !/read.only/i.test(error.message)) refused.push(error.message)
      }
    }
  }
  if (refused.length === 0)
    return [{ name: 'rights', level: 'ok', message: `The account may read and write the tables of Headrace in MySQL '${name}'.` }]
  return refused.slice(0, namesMax).map((message) => ({
    name: 'rights',
    level: 'error',
    message,
    remedy: 'grant select, insert, update, delete on the database to the account.',
  }))
}

async function xaRights(ask: Ask, name: string): Promise<Finding[]> {
  try {
    const prepared = preparedOn(await ask('xa recover'))
    if (prepared.length === 0) return [{ name: 'prepared branches', level: 'ok', message: `MySQL '${name}' holds no prepared branch.` }]
    const some = prepared.slice(0, namesMax).map(({ gid, participant }) => `${gid} (${participant})`)
    return [
      {
        name: 'prepared branches',
        level: 'warning',
        message: `The server of MySQL '${name}' holds ${prepared.length} prepared branches, and their locks: ${some.join(', ')}.`,
        remedy: 'Those of this deployment end by themselves; of others see xa recover, and end them by hand when nobody does.',
      },
    ]
  } catch (error) {
    if (!HeadraceError.is(error) || error.code !== 'engine-refused') throw error
    return [
      {
        name: 'prepared branches',
        level: 'error',
        message: `The account may not list prepared branches, so nothing in doubt would be found: ${error.message}`,
        remedy: 'MySQL 8: grant xa_recover_admin on *.* to the account.',
      },
    ]
  }
}

async function readOnly(ask: Ask, name: string): Promise<Finding[]> {
  const [row] = await ask('select @@global.read_only as read_only, @@global.innodb_read_only as innodb')
  if (Number(row?.['read_only']) === 0 && Number(row?.['innodb']) === 0)
    return [{ name: 'read-only', level: 'ok', message: `MySQL '${name}' takes writes.` }]
  return [
    {
      name: 'read-only',
      level: 'error',
      message: `The server of MySQL '${name}' is read-only.`,
      remedy: 'Connect to the primary, or end its read-only mode.',
    },
  ]
}

async function durability(ask: Ask, name: string): Promise<Finding[]> {
  const [row] = await ask(
    'select @@global.innodb_flush_log_at_trx_commit as flush, @@global.log_bin as log_bin, @@global.sync_binlog as sync_binlog',
  )
  const loose = [
    ...(Number(row?.['flush']) === 1 ? [] : [`innodb_flush_log_at_trx_commit = ${String(row?.['flush'])}`]),
    ...(Number(row?.['log_bin']) === 0 || Number(row?.['sync_binlog']) === 1 ? [] : [`sync_binlog = ${String(row?.['sync_binlog'])}`]),
  ]
  if (loose.length === 0)
    return [{ name: 'durability', level: 'ok', message: `MySQL '${name}' has every commit on disk before it answers.` }]
  return [
    {
      name: 'durability',
      level: 'warning',
      message: `MySQL '${name}' may lose acknowledged commits and prepared branches at a power cut: ${loose.join(', ')}.`,
      remedy: 'Set them to 1.',
    },
  ]
}

async function binlog(ask: Ask, name: string): Promise<Finding[]> {
  const [row] = await ask('select @@global.log_bin as log_bin, @@global.binlog_format as format')
  if (Number(row?.['log_bin']) === 0) return [{ name: 'binlog', level: 'ok', message: `MySQL '${name}' writes no binary log.` }]
  const format = String(row?.['format']).toUpperCase()
  if (format === 'STATEMENT')
    return [
      {
        name: 'binlog',
        level: 'error',
        message: `MySQL '${name}' has binlog_format = STATEMENT, which refuses writes under READ COMMITTED.`,
        remedy: 'Set binlog_format = ROW.',
      },
    ]
  return [
    {
      name: 'binlog',
      level: format === 'ROW' ? 'ok' : 'warning',
      message: `MySQL '${name}' replicates (binlog_format = ${format}): a prepared branch may not survive a failover to a replica.`,
      ...(format === 'ROW' ? {} : { remedy: 'Set binlog_format = ROW, without filters on databases.' }),
    },
  ]
}

async function engines(ask: Ask, name: string): Promise<Finding[]> {
  const rows = await ask(
    "select table_name as name, engine as engine from information_schema.tables where table_schema = database() and table_type = 'BASE TABLE' and engine <> 'InnoDB' order by table_name",
  )
  if (rows.length === 0) return [{ name: 'engines', level: 'ok', message: `All tables of MySQL '${name}' are transactional.` }]
  const some = rows.slice(0, namesMax).map((row) => `${String(row['name'])} (${String(row['engine'])})`)
  return [
    {
      name: 'engines',
      level: 'error',
      message: `No transaction can undo what is written to ${rows.length} tables of MySQL '${name}': ${some.join(', ')}. Writes to them are refused.`,
      remedy: 'alter table … engine=InnoDB.',
    },
  ]
}
