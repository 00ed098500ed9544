/**
 * Headrace's tables in a SQLite file that a coordinator uses: markers,
 * decisions, fences. And how such a file is told from one of an app, where the
 * journal decides instead: writes beside the journal would spoil its redo, and
 * a decision in a file without its journal's knowledge could be redone away.
 */
import type { DatabaseSyncInstance, StatementSyncInstance } from '@photostructure/sqlite'
import { HeadraceError } from '../../contracts/errors.ts'
import { type BranchEnd, type Decision, type Fence, gidPattern } from '../../contracts/participant.ts'
import { DecisionTable, type Statements } from './decision-table.ts'

/** The version of the tables that is worked with here. */
export const ownTablesVersion = 1

/** Safe to run again; the version is never lowered. */
export const ownTablesSql = `create table if not exists headrace_meta (
  name text primary key not null,
  value integer not null
) without rowid;

-- The marker of a branch: written by the branch itself, or as not committed by whoever refuses it for good.
create table if not exists headrace_branch (
  gid text not null,
  participant text not null,
  committed integer not null check (committed in (0, 1)),
  at integer not null,
  primary key (gid, participant)
) without rowid;

-- The decision about a global transaction: whoever inserts it first decides.
create table if not exists headrace_decision (
  gid text primary key not null,
  verdict text not null check (verdict in ('commit', 'abort')),
  participants text not null,
  decided_at integer not null
) without rowid;

-- The highest epoch seen, by partition: an older owner is refused.
create table if not exists headrace_epoch (
  deployment text not null,
  partition integer not null,
  epoch integer not null,
  primary key (deployment, partition)
) without rowid;

insert into headrace_meta (name, value) values ('tables', ${ownTablesVersion})
  on conflict (name) do update set value = excluded.value where headrace_meta.value < excluded.value;
`

/** Statements of a connection, by text. The texts here are few. */
class StatementCache implements Statements {
  readonly #database: DatabaseSyncInstance
  readonly #statements = new Map<string, StatementSyncInstance>()

  constructor(database: DatabaseSyncInstance) {
    this.#database = database
  }

  run(text: string): StatementSyncInstance {
    const known = this.#statements.get(text)
    if (known !== undefined) return known
    const statement = this.#database.prepare(text)
    this.#statements.set(text, statement)
    return statement
  }
}

/** The statements on them over one connection. What writes is called inside a transaction. */
export class OwnTables {
  readonly #name: string
  readonly #statements: StatementCache
  readonly #decisions: DecisionTable

  /** `name`: the participant whose markers they are. */
  constructor(name: string, database: DatabaseSyncInstance) {
    this.#name = name
    this.#statements = new StatementCache(database)
    this.#decisions = new DecisionTable(this.#statements, 'headrace_decision')
  }

  marker(gid: string): BranchEnd | null {
    const row = this.#statements.run('select committed from headrace_branch where gid = ? and participant = ?').get(gid, this.#name) as
      | { readonly committed: number }
      | undefined
    return row === undefined ? null : row.committed === 1 ? 'committed' : 'aborted'
  }

  /** Takes the marker; throws 'gid-taken' when it is there. */
  mark(gid: string, end: BranchEnd): void {
    const { changes } = this.#statements
      .run('insert into headrace_branch (gid, participant, committed, at) values (?, ?, ?, ?) on conflict do nothing')
      .run(gid, this.#name, end === 'committed' ? 1 : 0, Date.now())
    if (Number(changes) !== 1) throw this.#taken(gid, 'marker')
  }

  decision(gid: string): Decision | null {
    return this.#decisions.find(gid)
  }

  decisions(prefix: string, limit: number): Decision[] {
    return this.#decisions.list(prefix, limit)
  }

  /** Throws 'gid-taken' when it is decided already. */
  decide(decision: Decision): void {
    if (this.#decisions.find(decision.gid) !== null) throw this.#taken(decision.gid, 'decision')
    this.#decisions.insert(decision)
  }

  forget(gids: readonly string[]): void {
    this.#decisions.forget(gids)
    this.#statements
      .run('delete from headrace_branch where participant = ? and gid in (select value from json_each(?))')
      .run(this.#name, JSON.stringify(gids))
  }

  /** Raises the epochs that are lower. Throws 'fenced' when one is higher; then nothing is changed. */
  raise(fences: readonly Fence[]): void {
    const below = fences.filter(({ deployment, partition, epoch }) => {
      const row = this.#statements
        .run('select epoch from headrace_epoch where deployment = ? and partition = ?')
        .get(deployment, partition) as { readonly epoch: number } | undefined
      if (row !== undefined && row.epoch > epoch)
        throw new HeadraceError(
          'fenced',
          `Partition ${partition} of '${deployment}' has seen epoch ${row.epoch} in SQLite '${this.#name}', not ${epoch}: a newer owner has taken over.`,
          { details: { database: this.#name, deployment, partition, epoch, seen: row.epoch } },
        )
      return row?.epoch !== epoch
    })
    const raise = this.#statements.run(
      'insert into headrace_epoch (deployment, partition, epoch) values (?, ?, ?) on conflict (deployment, partition) do update set epoch = excluded.epoch',
    )
    for (const { deployment, partition, epoch } of below) raise.run(deployment, partition, epoch)
  }

  #taken(gid: string, what: string): HeadraceError {
    return new HeadraceError('gid-taken', `The ${what} of '${gid}' is taken in SQLite '${this.#name}': nothing of it is kept.`, {
      details: { database: this.#name, gid },
    })
  }
}

const has = (database: DatabaseSyncInstance, table: string): boolean =>
  database.prepare("select 1 from sqlite_master where type = 'table' and name = ?").get(table) !== undefined

/** The version of the tables; 0 when there are none. */
export function versionOf(database: DatabaseSyncInstance): number {
  if (!has(database, 'headrace_meta')) return 0
  const row = database.prepare("select value from headrace_meta where name = 'tables'").get() as { readonly value: number } | undefined
  return row?.value ?? 0
}

/** Throws 'database-claimed' when the file belongs to the journal of an app. */
export function refuseJournals(name: string, path: string, database: DatabaseSyncInstance): void {
  if (!has(database, 'headrace_partition') || database.prepare('select 1 from headrace_partition limit 1').get() === undefined) return
  throw new HeadraceError(
    'database-claimed',
    `SQLite '${name}' (${path}) belongs to an app, whose journal redoes its batches after a crash: what others write beside it would make the redo fail. Give the coordinator a file of its own; if the app is gone for good, empty the table headrace_partition.`,
    { details: { database: name } },
  )
}

/** Throws 'database-claimed' when a coordinator decides in the file. */
export function refuseCoordinators(name: string, path: string, database: DatabaseSyncInstance): void {
  if (!has(database, 'headrace_branch')) return
  throw new HeadraceError(
    'database-claimed',
    `SQLite '${name}' (${path}) is used by a coordinator, which decides transactions in it: the journal of an app must be alone. Give the app a file of its own; if no coordinator uses the file any more, drop the tables headrace_branch, headrace_decision, headrace_epoch and headrace_meta.`,
    { details: { database: name } },
  )
}

export function mustBeGid(gid: string): void {
  if (typeof gid === 'string' && gidPattern.test(gid)) return
  throw new HeadraceError(
    'option-invalid',
    `${JSON.stringify(String(gid).slice(0, 80))} is not a gid: use 1 to 60 lower-case letters, digits and underscores.`,
  )
}
