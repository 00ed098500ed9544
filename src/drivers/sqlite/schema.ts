/** The tables of the journal. `format` goes up with every change that an older version could not read. */
export const journalFormat = 2

export const journalSchema = `
create table if not exists meta (
  name text primary key not null,
  value not null
) without rowid;

-- Accepted commands that wait, in order of position. 'parked' ones wait for their key.
create table if not exists entry (
  position integer primary key,
  partition integer not null,
  key text not null,
  id text not null,
  hash integer not null,
  command text not null,
  tenant text not null,
  input text not null,
  digest text not null,
  accepted_at integer not null,
  attempts integer not null,
  parked integer not null,
  crc integer not null
);
create index if not exists entry_parked on entry (key, position) where parked = 1;

-- Outcomes in the order they were decided; found by id through a table in memory (hash-index.ts).
create table if not exists outcome (
  n integer primary key,
  hash integer not null,
  id text not null,
  status text not null,
  digest text not null,
  body text not null,
  position integer not null,
  partition integer not null,
  at integer not null,
  crc integer not null
);

create table if not exists blocked (
  key text primary key not null,
  partition integer not null,
  retry_at integer
) without rowid;

create table if not exists dead (
  position integer primary key,
  partition integer not null,
  key text not null,
  id text not null,
  command text not null,
  tenant text not null,
  input text not null,
  digest text not null,
  accepted_at integer not null,
  attempts integer not null,
  code text not null,
  message text not null,
  died_at integer not null,
  blocks integer not null
);

-- What a decided batch changed in each file, until that file has it on disk.
create table if not exists redo (
  n integer primary key,
  batch integer not null,
  file text not null,
  changes blob not null,
  crc integer not null
);

-- Global transactions over databases on servers that are decided, until all of their branches have confirmed.
create table if not exists decision (
  gid text primary key not null,
  verdict text not null check (verdict in ('commit', 'abort')),
  participants text not null,
  decided_at integer not null
) without rowid;

-- The files of the app, and for each the last of its batches whose redo was dropped.
create table if not exists file (
  name text primary key not null,
  path text not null,
  dropped integer not null
) without rowid;
`
