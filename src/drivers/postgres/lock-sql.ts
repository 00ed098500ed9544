/**
 * The lock protocol as functions in the database: each call is one round trip
 * and one transaction, and takes the row of the key first, so calls on a key
 * run one after the other.
 *
 * The names carry the version of the protocol (1): another version brings its
 * own functions, so that nodes of both can run while they are replaced.
 *
 * A client that waits keeps one session that listens, and that holds an
 * advisory lock under the client's number. When that lock can be had, nobody
 * listens any more, and the waiter is skipped. (`NOTIFY` itself does not say.)
 * `NOTIFY` is delivered at commit, so a waiter that is woken sees what woke it.
 *
 * Times are the clock of the server, tokens its microseconds, or one more than
 * the last token where that is higher.
 */

/** Quotes a name that has been checked to be plain. */
const quoted = (name: string): string => `"${name}"`

/** What must exist, as one script that changes nothing when it does. Schema names are plain: letters, digits, underscores. */
export function postgresLocksSql(schema = 'public'): string {
  const s = quoted(schema)
  return `
create table if not exists ${s}.headrace_lock (
  key text collate "C" primary key,
  token bigint not null default 0,
  capacity integer not null,
  touched timestamptz not null default clock_timestamp()
);
create table if not exists ${s}.headrace_lock_holder (
  key text collate "C" not null,
  id text collate "C" not null,
  client bigint not null,
  token bigint not null,
  permits integer not null,
  ends timestamptz not null,
  primary key (key, id)
);
create table if not exists ${s}.headrace_lock_waiter (
  key text collate "C" not null,
  seq bigint generated always as identity,
  id text collate "C" not null,
  client bigint not null,
  permits integer not null,
  ttl_ms integer not null,
  deadline timestamptz not null,
  primary key (key, seq),
  unique (key, id)
);

-- Leases that are over end, then waiters are served while the head of the queue fits. The caller holds the row of the key.
create or replace function ${s}.headrace_lock1_serve(p_key text, p_durable boolean) returns void language plpgsql as $$
declare
  l ${s}.headrace_lock;
  w ${s}.headrace_lock_waiter;
  stamp timestamptz := clock_timestamp();
  us bigint := (extract(epoch from stamp) * 1000000)::bigint;
  taken bigint;
begin
  if not p_durable then perform set_config('synchronous_commit', 'off', true); end if;
  select * into l from ${s}.headrace_lock where key = p_key;
  delete from ${s}.headrace_lock_holder where key = p_key and ends <= stamp;
  select coalesce(sum(permits), 0) into taken from ${s}.headrace_lock_holder where key = p_key;
  loop
    select * into w from ${s}.headrace_lock_waiter where key = p_key order by seq limit 1;
    exit when not found;
    if w.deadline > stamp and not pg_try_advisory_xact_lock(w.client) then
      exit when taken + w.permits > l.capacity;
      l.token := greatest(l.token + 1, us);
      taken := taken + w.permits;
      insert into ${s}.headrace_lock_holder values (p_key, w.id, w.client, l.token, w.permits, stamp + w.ttl_ms * interval '1 millisecond');
      perform pg_notify('headrace_lock_' || w.client, 'g ' || l.token || ' ' || w.id);
    end if;
    delete from ${s}.headrace_lock_waiter where key = p_key and seq = w.seq;
  end loop;
  update ${s}.headrace_lock set token = l.token, touched = stamp where key = p_key;
end $$;

create or replace function ${s}.headrace_lock1_acquire(
  p_key text, p_id text, p_client bigint, p_permits integer, p_capacity integer, p_ttl_ms integer, p_wait_ms integer, p_floor bigint, p_waiters_max integer, p_durable boolean,
  out state integer, out value bigint, out ms integer, out token_before bigint
) language plpgsql as $$
declare
  l ${s}.headrace_lock;
  mine ${s}.headrace_lock_holder;
  stamp timestamptz;
  taken bigint;
  waiting bigint;
  first_end timestamptz;
begin
  if not p_durable then perform set_config('synchronous_commit', 'off', true); end if;
  loop
    select * into l from ${s}.headrace_lock where key = p_key for update;
    exit when found;
    insert into ${s}.headrace_lock (key, capacity) values (p_key, p_capacity) on conflict do nothing;
  end loop;
  token_before := l.token;
  if p_floor > l.token then
    update ${s}.headrace_lock set token = p_floor where key = p_key;
  end if;
  -- A waiter that asks again from a new session is found there from now on. (0: a call that does not wait has none.)
  update ${s}.headrace_lock_waiter set client = p_client where key = p_key and id = p_id and client <> p_client and p_client <> 0;
  perform ${s}.headrace_lock1_serve(p_key, p_durable);
  stamp := clock_timestamp();
  select token into l.token from ${s}.headrace_lock where key = p_key;
  select coalesce(sum(permits), 0), min(ends) into taken, first_end from ${s}.headrace_lock_holder where key = p_key;
  select count(*) into waiting from ${s}.headrace_lock_waiter where key = p_key;
  ms := greatest(0, ceil(extract(epoch from coalesce(first_end, stamp) - stamp) * 1000))::integer;
  value := 0;
  select * into mine from ${s}.headrace_lock_holder where key = p_key and id = p_id;
  if found then
    state := 1;
    value := mine.token;
    ms := floor(extract(epoch from mine.ends - stamp) * 1000)::integer;
    return;
  end if;
  if exists (select from ${s}.headrace_lock_waiter where key = p_key and id = p_id) then
    state := 0;
    return;
  end if;
  if taken = 0 and waiting = 0 and l.capacity <> p_capacity then
    update ${s}.headrace_lock set capacity = p_capacity where key = p_key;
    l.capacity := p_capacity;
  end if;
  if l.capacity <> p_capacity then
    state := -2;
    value := l.capacity;
  elsif waiting = 0 and taken + p_permits <= l.capacity then
    state := 1;
    value := greatest(l.token + 1, (extract(epoch from stamp) * 1000000)::bigint);
    ms := p_ttl_ms;
    insert into ${s}.headrace_lock_holder values (p_key, p_id, p_client, value, p_permits, stamp + p_ttl_ms * interval '1 millisecond');
    update ${s}.headrace_lock set token = value where key = p_key;
  elsif p_wait_ms = 0 then
    state := -1;
  elsif waiting >= p_waiters_max then
    state := -3;
  else
    state := 0;
    insert into ${s}.headrace_lock_waiter (key, id, client, permits, ttl_ms, deadline) values (p_key, p_id, p_client, p_permits, p_ttl_ms, stamp + p_wait_ms * interval '1 millisecond');
  end if;
end $$;

create or replace function ${s}.headrace_lock1_extend(p_key text, p_id text, p_token bigint, p_ttl_ms integer, p_durable boolean, out held boolean, out token_before bigint) language plpgsql as $$
declare
  stamp timestamptz := clock_timestamp();
begin
  if not p_durable then perform set_config('synchronous_commit', 'off', true); end if;
  select coalesce((select token from ${s}.headrace_lock where key = p_key), 0) into token_before;
  update ${s}.headrace_lock_holder set ends = stamp + p_ttl_ms * interval '1 millisecond' where key = p_key and id = p_id and token = p_token and ends > clock_timestamp();
  held := found;
end $$;

create or replace function ${s}.headrace_lock1_release(p_key text, p_id text, p_durable boolean, out held boolean, out token_before bigint) language plpgsql as $$
begin
  if not p_durable then perform set_config('synchronous_commit', 'off', true); end if;
  select token into token_before from ${s}.headrace_lock where key = p_key for update;
  token_before := coalesce(token_before, 0);
  delete from ${s}.headrace_lock_holder where key = p_key and id = p_id;
  held := found;
  delete from ${s}.headrace_lock_waiter where key = p_key and id = p_id;
  held := held or found;
  perform ${s}.headrace_lock1_serve(p_key, p_durable);
end $$;

create or replace function ${s}.headrace_lock1_break(p_key text, p_id text) returns integer language plpgsql as $$
declare
  gone record;
  broken integer := 0;
begin
  perform from ${s}.headrace_lock where key = p_key for update;
  for gone in delete from ${s}.headrace_lock_holder where key = p_key and (p_id = '' or id = p_id) returning id, client loop
    perform pg_notify('headrace_lock_' || gone.client, 'b 0 ' || gone.id);
    broken := broken + 1;
  end loop;
  perform ${s}.headrace_lock1_serve(p_key, true);
  return broken;
end $$;
`
}

/** The calls, with their parameters in order. */
export function lockCalls(schema: string) {
  const s = quoted(schema)
  return {
    installed: `select to_regprocedure('${s}.headrace_lock1_break(text,text)') is not null as installed`,
    acquire: `select state, value, ms, token_before from ${s}.headrace_lock1_acquire($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)`,
    extend: `select held, token_before from ${s}.headrace_lock1_extend($1, $2, $3, $4, $5)`,
    release: `select held, token_before from ${s}.headrace_lock1_release($1, $2, $3)`,
    break: `select ${s}.headrace_lock1_break($1, $2) as broken`,
    list: `
      select l.key, l.capacity, l.token, coalesce(w.waiting, 0)::integer as waiting, coalesce(h.holders, '[]') as holders
      from ${s}.headrace_lock l
      left join (select key, count(*) as waiting from ${s}.headrace_lock_waiter where deadline > clock_timestamp() group by key) w on w.key = l.key
      left join (
        select key, json_agg(json_build_object('id', id, 'token', token, 'permits', permits, 'remainingMs', floor(extract(epoch from ends - clock_timestamp()) * 1000)) order by token) as holders
        from ${s}.headrace_lock_holder where ends > clock_timestamp() group by key
      ) h on h.key = l.key
      where w.key is not null or h.key is not null
      order by l.key limit $1`,
    prune: `
      delete from ${s}.headrace_lock where key in (
        select key from ${s}.headrace_lock l
        where touched < clock_timestamp() - $1 * interval '1 millisecond'
          and not exists (select from ${s}.headrace_lock_holder h where h.key = l.key)
          and not exists (select from ${s}.headrace_lock_waiter w where w.key = l.key)
        limit $2 for update skip locked)`,
  }
}
