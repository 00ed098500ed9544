/** The tables of a queue file. `queueFormat` goes up with every change that an older version could not read; it stands in `user_version`. */
export const queueFormat = 2

/** Makes a file of the format before this one to one of this format. */
export const queueUpgrade = "alter table place add column open text not null default '[]'"

/** The columns of a message that stay the same wherever it lies. */
export const messageColumns = 'id, key, headers, body, published_at, available_at'

const messageFields = `
  id text not null,
  key text not null,
  headers text not null,
  body text not null,
  published_at integer not null,
  available_at integer`

export const queueSchema = `
create table if not exists topic (
  n integer primary key,
  name text not null unique,
  partitions integer not null,
  messages_max integer not null
) strict;

create table if not exists consumers (
  topic integer not null,
  name text not null,
  paused integer not null,
  primary key (topic, name)
) strict, without rowid;

-- 'next' is the position of the next message; all up to 'floor' are acknowledged by every group, and gone.
create table if not exists part (
  topic integer not null,
  partition integer not null,
  next integer not null,
  floor integer not null,
  delayed integer not null,
  primary key (topic, partition)
) strict, without rowid;

-- How far a group is in a partition, and who holds its lease. 'open' names the positions up to 'acked' that are not done.
create table if not exists place (
  topic integer not null,
  name text not null,
  partition integer not null,
  acked integer not null,
  epoch integer not null,
  held integer not null,
  from_us integer not null,
  ttl_us integer not null,
  open text not null default '[]',
  primary key (topic, partition, name)
) strict, without rowid;

-- 'origin' is the position of the first append; 'only' names the group that a redriven message is for.
create table if not exists message (
  topic integer not null,
  partition integer not null,
  position integer not null,${messageFields},
  redriven integer not null,
  origin integer not null,
  only_for text,
  primary key (topic, partition, position)
) strict, without rowid;
create unique index if not exists message_id on message (topic, partition, id) where only_for is null;
create index if not exists message_only on message (topic, partition, position) where only_for is not null;

create table if not exists delayed (
  n integer primary key autoincrement,
  topic integer not null,
  partition integer not null,${messageFields},
  unique (topic, partition, id)
) strict;
create index if not exists delayed_due on delayed (topic, partition, available_at, n);

create table if not exists dead (
  n integer primary key autoincrement,
  topic integer not null,
  name text not null,
  partition integer not null,
  position integer not null,${messageFields},
  redriven integer not null,
  origin integer not null,
  malformed text,
  code text not null,
  reason text not null,
  attempts integer not null,
  died_at integer not null,
  unique (topic, name, partition, position)
) strict;
create index if not exists dead_order on dead (topic, name, n);
`
