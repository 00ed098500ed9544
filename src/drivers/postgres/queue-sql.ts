/**
 * The queue as tables and functions in the database: each call is one round trip
 * and one transaction.
 *
 * A topic is a log for each partition. The row of the partition gives positions,
 * under a lock that lasts to the commit: identity values would commit out of
 * order, and a reader would skip what commits late.
 *
 * Locks are taken in one order: part, place, trim.
 *
 * NOTIFY takes a lock of the whole database at commit, so an append notifies
 * only when a consumer has said that it waits: `wait` looks under the lock of
 * the partition, and leaves its word there.
 *
 * The names carry the version of the protocol (1): another version brings its
 * own functions.
 */
/** The version of the tables that this driver works with. */
export const queueTablesVersion = 2

export const queueChannel = 'headrace_queue'

const fields = `
  id text collate "C" not null,
  key text not null,
  headers text not null,
  body text not null,
  published_at bigint not null,
  available_at bigint`

/** Quotes a name that has been checked to be plain. */
export const quoted = (name: string): string => `"${name}"`

/** The clock of the server, in milliseconds since 1970. */
export const nowMs = '(extract(epoch from clock_timestamp()) * 1000)::bigint'

/** What must exist, as one script that changes nothing when it does. The schema is a plain name: letters, digits, underscores. */
export function postgresQueueSql(schema = 'public'): string {
  const s = quoted(schema)
  return `
create table if not exists ${s}.headrace_queue_meta (version integer not null);
insert into ${s}.headrace_queue_meta select ${queueTablesVersion} where not exists (select from ${s}.headrace_queue_meta);
update ${s}.headrace_queue_meta set version = ${queueTablesVersion} where version < ${queueTablesVersion};

create table if not exists ${s}.headrace_queue_topic (
  n integer generated always as identity primary key,
  name text collate "C" not null unique,
  partitions integer not null,
  messages_max bigint not null
);
create table if not exists ${s}.headrace_queue_group (
  topic integer not null,
  name text collate "C" not null,
  paused boolean not null default false,
  primary key (topic, name)
);
-- 'next' is the position of the next message; 'waiting' asks the next append to notify.
create table if not exists ${s}.headrace_queue_part (
  topic integer not null,
  partition integer not null,
  next bigint not null default 1,
  delayed integer not null default 0,
  waiting boolean not null default false,
  primary key (topic, partition)
) with (fillfactor = 50);
-- How far a group is in a partition, and who holds its lease.
create table if not exists ${s}.headrace_queue_place (
  topic integer not null,
  partition integer not null,
  name text collate "C" not null,
  acked bigint not null,
  epoch bigint not null default 0,
  held boolean not null default false,
  ends timestamptz not null default now(),
  primary key (topic, partition, name)
) with (fillfactor = 50);
-- Positions up to 'acked' that are not done, in order.
alter table ${s}.headrace_queue_place add column if not exists open bigint[] not null default '{}';
-- All up to 'floor' are acknowledged by every group, and gone, but for those that are open.
create table if not exists ${s}.headrace_queue_trim (
  topic integer not null,
  partition integer not null,
  floor bigint not null default 0,
  primary key (topic, partition)
) with (fillfactor = 50);
create table if not exists ${s}.headrace_queue_message (
  topic integer not null,
  partition integer not null,
  position bigint not null,${fields},
  redriven integer not null default 0,
  origin bigint not null,
  only_for text collate "C",
  primary key (topic, partition, position)
) with (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000);
create unique index if not exists headrace_queue_message_id on ${s}.headrace_queue_message (topic, partition, id) where only_for is null;
create index if not exists headrace_queue_message_only on ${s}.headrace_queue_message (topic, partition, position) where only_for is not null;
create table if not exists ${s}.headrace_queue_delayed (
  n bigint generated always as identity primary key,
  topic integer not null,
  partition integer not null,${fields},
  unique (topic, partition, id)
);
create index if not exists headrace_queue_delayed_due on ${s}.headrace_queue_delayed (topic, partition, available_at, n);
create table if not exists ${s}.headrace_queue_dead (
  n bigint generated always as identity primary key,
  topic integer not null,
  name text collate "C" not null,
  partition integer not null,
  position bigint not null,${fields},
  redriven integer not null,
  origin bigint not null,
  malformed text,
  code text not null,
  reason text not null,
  attempts integer not null,
  died_at bigint not null,
  unique (topic, name, partition, position)
);

create or replace function ${s}.headrace_queue1_declare(p_name text, p_partitions integer, p_max bigint, p_groups text[])
returns table (n integer, partitions integer) language plpgsql as $$
declare
  t ${s}.headrace_queue_topic;
  g text;
begin
  perform pg_advisory_xact_lock(hashtextextended('headrace_queue ' || p_name, 0));
  select * into t from ${s}.headrace_queue_topic q where q.name = p_name;
  if not found then
    insert into ${s}.headrace_queue_topic (name, partitions, messages_max) values (p_name, p_partitions, p_max) returning * into t;
    insert into ${s}.headrace_queue_part (topic, partition) select t.n, i from generate_series(0, p_partitions - 1) i;
    insert into ${s}.headrace_queue_trim (topic, partition) select t.n, i from generate_series(0, p_partitions - 1) i;
  elsif t.partitions = p_partitions then
    if t.messages_max <> p_max then update ${s}.headrace_queue_topic q set messages_max = p_max where q.n = t.n; end if;
    perform 1 from ${s}.headrace_queue_part q where q.topic = t.n order by q.partition for update;
  end if;
  if t.partitions = p_partitions then
    foreach g in array p_groups loop
      continue when exists (select from ${s}.headrace_queue_group q where q.topic = t.n and q.name = g);
      insert into ${s}.headrace_queue_place (topic, partition, name, acked)
        select q.topic, q.partition, g, case when exists (select from ${s}.headrace_queue_group h where h.topic = t.n) then q.next - 1 else f.floor end
        from ${s}.headrace_queue_part q join ${s}.headrace_queue_trim f using (topic, partition) where q.topic = t.n;
      insert into ${s}.headrace_queue_group (topic, name) values (t.n, g);
    end loop;
  end if;
  return query select t.n, t.partitions;
end $$;

create or replace function ${s}.headrace_queue1_lock(p_topic integer, p_partitions integer[]) returns void language plpgsql as $$
declare
  q ${s}.headrace_queue_part;
begin
  for q in select * from ${s}.headrace_queue_part where topic = p_topic and partition = any (p_partitions) order by partition for update loop
    if q.waiting then perform pg_notify('${queueChannel}', p_topic || ' ' || q.partition); end if;
  end loop;
end $$;

create or replace function ${s}.headrace_queue1_append(p_topic integer, p_partitions integer[], p_messages json)
returns table (ord bigint, state integer, "position" bigint) language plpgsql as $$
begin
  perform ${s}.headrace_queue1_lock(p_topic, p_partitions);
  return query
  with given as (
    select * from rows from (json_to_recordset(p_messages) as (p integer, i text, k text, h text, b text, t bigint, a bigint))
      with ordinality as given (p, i, k, h, b, t, a, ord)
  ), part as materialized (
    select q.partition, q.next, q.delayed, m.messages_max - (q.next - 1 + q.delayed - coalesce(
      (select min(acked) from ${s}.headrace_queue_place l where l.topic = p_topic and l.partition = q.partition),
      (select floor from ${s}.headrace_queue_trim f where f.topic = p_topic and f.partition = q.partition))) as room
    from ${s}.headrace_queue_part q join ${s}.headrace_queue_topic m on m.n = q.topic
    where q.topic = p_topic and q.partition = any (p_partitions)
  ), known as (
    select given.*, part.next, part.room, coalesce(a > ${nowMs}, false) as late,
      exists (select from ${s}.headrace_queue_message m where m.topic = p_topic and m.partition = p and m.id = i and m.only_for is null)
      or (part.delayed > 0 and exists (select from ${s}.headrace_queue_delayed d where d.topic = p_topic and d.partition = p and d.id = i)) as waits
    from given join part on part.partition = p
  ), first as (
    select *, not waits and row_number() over (partition by p, i order by known.ord) = 1 as fresh from known
  ), fitting as (
    select *, fresh and count(*) filter (where fresh) over (partition by p order by first.ord) <= room as keeps from first
  ), placed as (
    -- Windows, and no join of the messages with themselves: the planner, which cannot know how many there are, would loop over them.
    select *, case when keeps and not late then next - 1 + count(*) filter (where keeps and not late) over (partition by p order by fitting.ord) end as at,
      bool_or(keeps) over (partition by p, i) as kept
    from fitting
  ), put as (
    insert into ${s}.headrace_queue_message (topic, partition, position, id, key, headers, body, published_at, available_at, origin)
    select p_topic, p, at, i, k, h, b, t, a, at from placed where at is not null
  ), later as (
    insert into ${s}.headrace_queue_delayed (topic, partition, id, key, headers, body, published_at, available_at)
    select p_topic, p, i, k, h, b, t, a from placed where keeps and late order by placed.ord
  ), moved as (
    update ${s}.headrace_queue_part q set next = q.next + c.now, delayed = q.delayed + c.later, waiting = false
    from (select p, count(at) as now, count(*) filter (where late) as later from placed where keeps group by p) c
    where q.topic = p_topic and q.partition = c.p
  )
  select placed.ord, case when keeps then 0 when waits or kept then 1 else 2 end, at from placed order by placed.ord;
end $$;

-- Gives delayed messages that are due their place in the order.
create or replace function ${s}.headrace_queue1_promote(p_topic integer, p_partition integer) returns void language plpgsql as $$
begin
  perform ${s}.headrace_queue1_lock(p_topic, array[p_partition]);
  with due as (
    delete from ${s}.headrace_queue_delayed where n in (
      select n from ${s}.headrace_queue_delayed d where d.topic = p_topic and d.partition = p_partition and available_at <= ${nowMs}
      order by available_at, n limit 1000)
    returning *
  ), placed as (
    select due.*, q.next - 1 + row_number() over (order by due.available_at, due.n) as at
    from due, ${s}.headrace_queue_part q where q.topic = p_topic and q.partition = p_partition
  ), put as (
    insert into ${s}.headrace_queue_message (topic, partition, position, id, key, headers, body, published_at, available_at, origin)
    select topic, partition, at, id, key, headers, body, published_at, available_at, at from placed
  )
  update ${s}.headrace_queue_part q set next = q.next + c.n, delayed = q.delayed - c.n, waiting = false
  from (select count(*) as n from due) c where q.topic = p_topic and q.partition = p_partition;
end $$;

-- State 0: granted; 1: somebody else holds it; 2: the epoch is too low; null: no such group.
create or replace function ${s}.headrace_queue1_lease(p_topic integer, p_partition integer, p_group text, p_ttl_ms integer, p_epoch bigint)
returns table (state integer, epoch bigint, acked bigint, left_ms double precision) language plpgsql as $$
declare
  l ${s}.headrace_queue_place;
  stamp timestamptz;
begin
  select * into l from ${s}.headrace_queue_place q where q.topic = p_topic and q.partition = p_partition and q.name = p_group for update;
  if not found then return; end if;
  stamp := clock_timestamp();
  if p_epoch < l.epoch then
    return query select 2, l.epoch, l.acked, 0::double precision;
  elsif p_epoch is null and l.held and l.ends > stamp then
    return query select 1, l.epoch, l.acked, extract(epoch from l.ends - stamp)::double precision * 1000;
  else
    return query update ${s}.headrace_queue_place q
      set epoch = coalesce(p_epoch, greatest(l.epoch + 1, (extract(epoch from stamp) * 1000000)::bigint)), held = true, ends = stamp + p_ttl_ms * interval '1 millisecond'
      where q.topic = p_topic and q.partition = p_partition and q.name = p_group
      returning 0, q.epoch, q.acked, p_ttl_ms::double precision;
  end if;
end $$;

-- False when the lease is over. What a crash of the server takes back is delivered again.
create or replace function ${s}.headrace_queue1_acknowledge(p_topic integer, p_partition integer, p_group text, p_epoch bigint, p_position bigint)
returns boolean language plpgsql as $$
declare
  was bigint;
  slowest bigint;
begin
  perform set_config('synchronous_commit', 'off', true);
  update ${s}.headrace_queue_place q set acked = greatest(q.acked, p_position)
    where q.topic = p_topic and q.partition = p_partition and q.name = p_group and q.epoch = p_epoch and q.held;
  if not found then return false; end if;
  select floor into was from ${s}.headrace_queue_trim f where f.topic = p_topic and f.partition = p_partition for update;
  select min(acked) into slowest from ${s}.headrace_queue_place q where q.topic = p_topic and q.partition = p_partition;
  if slowest > was then
    delete from ${s}.headrace_queue_message m where m.topic = p_topic and m.partition = p_partition and m.position > was and m.position <= slowest
      and m.position <> all (array(select o from ${s}.headrace_queue_place q, unnest(q.open) o where q.topic = p_topic and q.partition = p_partition));
    update ${s}.headrace_queue_trim f set floor = slowest where f.topic = p_topic and f.partition = p_partition;
  end if;
  return true;
end $$;

-- The same, but for what is open.
create or replace function ${s}.headrace_queue1_acknowledge_around(p_topic integer, p_partition integer, p_group text, p_epoch bigint, p_position bigint, p_open bigint[])
returns boolean language plpgsql as $$
declare
  before bigint[];
begin
  select q.open into before from ${s}.headrace_queue_place q
    where q.topic = p_topic and q.partition = p_partition and q.name = p_group and q.epoch = p_epoch and q.held for update;
  if not found then return false; end if;
  update ${s}.headrace_queue_place q set open = p_open || array(select o from unnest(before) o where o > p_position order by o)
    where q.topic = p_topic and q.partition = p_partition and q.name = p_group;
  if not ${s}.headrace_queue1_acknowledge(p_topic, p_partition, p_group, p_epoch, p_position) then return false; end if;
  -- What is open no more, and gone for all other groups.
  delete from ${s}.headrace_queue_message m where m.topic = p_topic and m.partition = p_partition and m.position = any (before)
    and m.position <= (select floor from ${s}.headrace_queue_trim f where f.topic = p_topic and f.partition = p_partition)
    and m.position <> all (array(select o from ${s}.headrace_queue_place q, unnest(q.open) o where q.topic = p_topic and q.partition = p_partition));
  return true;
end $$;

create or replace function ${s}.headrace_queue1_bury(p_topic integer, p_partition integer, p_group text, p_epoch bigint, p_position bigint, p_message json)
returns boolean language plpgsql as $$
begin
  perform 1 from ${s}.headrace_queue_place q
    where q.topic = p_topic and q.partition = p_partition and q.name = p_group and q.epoch = p_epoch and q.held for share;
  if not found then return false; end if;
  insert into ${s}.headrace_queue_dead (topic, name, partition, position, id, key, headers, body, published_at, available_at, redriven, origin, malformed, code, reason, attempts, died_at)
    select p_topic, p_group, p_partition, p_position, i, k, h, b, t, a, r,
      coalesce((select origin from ${s}.headrace_queue_message o where o.topic = p_topic and o.partition = p_partition and o.position = p_position), p_position),
      m, c, w, n, ${nowMs}
    from json_to_record(p_message) as d (i text, k text, h text, b text, t bigint, a bigint, r integer, m text, c text, w text, n integer)
    on conflict (topic, name, partition, position) do nothing;
  return true;
end $$;

-- Leaves word that a consumer waits; false when there is something to take.
create or replace function ${s}.headrace_queue1_wait(p_topic integer, p_partition integer, p_group text, p_after bigint)
returns boolean language plpgsql as $$
begin
  perform set_config('synchronous_commit', 'off', true);
  perform 1 from ${s}.headrace_queue_part q where q.topic = p_topic and q.partition = p_partition for update;
  if exists (select from ${s}.headrace_queue_message m where m.topic = p_topic and m.partition = p_partition and m.position > p_after
      and (m.only_for is null or m.only_for = p_group))
    and not (select paused from ${s}.headrace_queue_group g where g.topic = p_topic and g.name = p_group) then
    return false;
  end if;
  update ${s}.headrace_queue_part q set waiting = true where q.topic = p_topic and q.partition = p_partition and not q.waiting;
  return true;
end $$;

create or replace function ${s}.headrace_queue1_redrive(p_topic integer, p_group text, p_letters bigint[], p_limit integer)
returns bigint language plpgsql as $$
declare
  chosen bigint[];
  moved bigint;
begin
  select array_agg(n) into chosen from (
    select n from ${s}.headrace_queue_dead d where d.topic = p_topic and d.name = p_group and (p_letters is null or d.n = any (p_letters))
    order by partition, origin limit p_limit) c;
  perform ${s}.headrace_queue1_lock(p_topic, (select array_agg(distinct partition) from ${s}.headrace_queue_dead where n = any (chosen)));
  with back as (
    delete from ${s}.headrace_queue_dead where n = any (chosen) returning *
  ), placed as (
    select back.*, q.next - 1 + row_number() over (partition by back.partition order by back.origin) as at
    from back join ${s}.headrace_queue_part q on q.topic = p_topic and q.partition = back.partition
  ), put as (
    insert into ${s}.headrace_queue_message (topic, partition, position, id, key, headers, body, published_at, available_at, redriven, origin, only_for)
    select topic, partition, at, id, key, headers, body, published_at, available_at, redriven + 1, origin, p_group from placed
  ), counted as (
    update ${s}.headrace_queue_part q set next = q.next + c.n, waiting = false
    from (select partition, count(*) as n from back group by partition) c where q.topic = p_topic and q.partition = c.partition
  )
  select count(*) into moved from back;
  return moved;
end $$;

create or replace function ${s}.headrace_queue1_purge(p_topic integer, p_group text) returns bigint language plpgsql as $$
declare
  q record;
  purged bigint := 0;
  waits bigint;
begin
  for q in select * from ${s}.headrace_queue_part where topic = p_topic order by partition for update loop
    select count(*) into waits from ${s}.headrace_queue_message m join ${s}.headrace_queue_place l using (topic, partition)
      where m.topic = p_topic and m.partition = q.partition and l.name = p_group and (m.position > l.acked or m.position = any (l.open))
        and (m.only_for is null or m.only_for = p_group);
    purged := purged + waits;
    update ${s}.headrace_queue_place l set acked = q.next - 1, open = '{}' where l.topic = p_topic and l.partition = q.partition and l.name = p_group;
    perform 1 from ${s}.headrace_queue_trim f where f.topic = p_topic and f.partition = q.partition for update;
    delete from ${s}.headrace_queue_message m where m.topic = p_topic and m.partition = q.partition
      and m.position <= (select min(acked) from ${s}.headrace_queue_place l where l.topic = p_topic and l.partition = q.partition)
      and m.position <> all (array(select o from ${s}.headrace_queue_place l, unnest(l.open) o where l.topic = p_topic and l.partition = q.partition));
    update ${s}.headrace_queue_trim f set floor = (select min(acked) from ${s}.headrace_queue_place l where l.topic = p_topic and l.partition = q.partition)
      where f.topic = p_topic and f.partition = q.partition;
  end loop;
  return purged;
end $$;
`
}
