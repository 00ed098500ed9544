/**
 * The tables that Headrace keeps in a PostgreSQL database, and how an older set
 * of them becomes a newer one.
 *
 * Every step may run again: what is there stays. The version stands in
 * headrace_meta, and is never lowered.
 */

/** The version of the tables that this driver works with. */
export const tablesVersion = 1

export const ownTables = ['headrace_branch', 'headrace_decision', 'headrace_meta', 'headrace_partition'] as const

/** What the account of the app needs on each table; `migrate` needs the right to create tables. */
export const tableRights: Readonly<Record<(typeof ownTables)[number], readonly string[]>> = {
  headrace_branch: ['select', 'insert', 'delete'],
  headrace_decision: ['select', 'insert', 'delete'],
  headrace_meta: ['select'],
  headrace_partition: ['select', 'insert', 'update'],
}

/** Step n makes version n out of version n - 1. */
const steps: readonly string[] = [
  `create table if not exists headrace_meta (
  name text collate "C" primary key,
  value bigint not null
);
-- The marker of a branch: written by the branch itself, or as 'aborted' by whoever refuses it for good.
create table if not exists headrace_branch (
  gid text collate "C" not null,
  participant text collate "C" not null,
  committed boolean not null,
  at timestamptz not null default now(),
  constraint headrace_branch_key primary key (gid, participant)
);
-- The decision about a global transaction: whoever inserts it first decides.
create table if not exists headrace_decision (
  gid text collate "C" not null,
  verdict text not null check (verdict in ('commit', 'abort')),
  participants text not null,
  decided_at bigint not null,
  constraint headrace_decision_key primary key (gid)
);
-- The highest epoch seen, by partition: an older owner is refused.
create table if not exists headrace_partition (
  deployment text collate "C" not null,
  partition integer not null,
  epoch bigint not null,
  constraint headrace_partition_key primary key (deployment, partition)
) with (fillfactor = 50);`,
]

/** Two that migrate at once wait for each other under this number. */
const migrationLock = '4712061871090716'

/** One transaction: all of it, or nothing. */
export function migrationSql(schema: string | undefined): string {
  return [
    'begin;',
    `select pg_advisory_xact_lock(${migrationLock});`,
    ...steps,
    `insert into headrace_meta as known (name, value) values ('tables', ${tablesVersion})
  on conflict (name) do update set value = excluded.value where known.value < excluded.value;`,
    ...(schema === undefined ? [] : ['-- The tables of the app.', schema.trim().replace(/;?$/, ';')]),
    'commit;',
    '',
  ].join('\n')
}
