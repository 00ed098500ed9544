/** The statements that the queue driver sends; the functions that they call are in `queue-sql.ts`. */
import type { TopicOptions } from '../../contracts/queue.ts'
import { nowMs, queueChannel, quoted } from './queue-sql.ts'

/** The statements of the driver. */
export function queueCalls(schema: string): Readonly<Record<string, string>> & { readonly [K in QueueCall]: string } {
  const s = quoted(schema)
  const message = 'm.position, m.id, m.key, m.headers, m.body, m.published_at, m.available_at, m.redriven'
  const mine = '(only_for is null or only_for = $3)'
  // One row at least while the place is there: whether the lease holds, and when the next delayed message is due.
  const take = (which: string): string => `select l.epoch = $4 and l.held as held,
      (select min(available_at) from ${s}.headrace_queue_delayed where topic = $1 and partition = $2) - ${nowMs} as due_ms, ${message}
      from ${s}.headrace_queue_place l join ${s}.headrace_queue_group g on g.topic = l.topic and g.name = l.name
      left join lateral (
        select * from (
          select *, sum(octet_length(body)) over (order by position) as bytes, row_number() over (order by position) as nth from (
            select position, id, key, headers, body, published_at, available_at, redriven from ${s}.headrace_queue_message
            where topic = $1 and partition = $2 and ${which} and ${mine} order by position limit $6) first) counted
        where bytes <= $7 or nth = 1) m on l.epoch = $4 and l.held and not g.paused
      where l.topic = $1 and l.partition = $2 and l.name = $3 order by m.position`
  return {
    version: `select case when to_regclass('${s}.headrace_queue_meta') is null then null else 0 end as found`,
    tables: `select version from ${s}.headrace_queue_meta`,
    declare: `select * from ${s}.headrace_queue1_declare($1, $2, $3, $4)`,
    open: `select n, partitions from ${s}.headrace_queue_topic where name = $1`,
    topics: `select name from ${s}.headrace_queue_topic order by name`,
    groups: `select name from ${s}.headrace_queue_group where topic = $1 order by name`,
    append: `select state, position from ${s}.headrace_queue1_append($1, $2, $3)`,
    lease: `select * from ${s}.headrace_queue1_lease($1, $2, $3, $4, $5)`,
    take: take('position > $5'),
    takeOpen: take('position = any ($5::bigint[])'),
    openAt: `select open from ${s}.headrace_queue_place where topic = $1 and partition = $2 and name = $3`,
    promote: `select ${s}.headrace_queue1_promote($1, $2)`,
    wait: `select ${s}.headrace_queue1_wait($1, $2, $3, $4) as waits`,
    acknowledge: `select ${s}.headrace_queue1_acknowledge($1, $2, $3, $4, $5) as held`,
    acknowledgeAround: `select ${s}.headrace_queue1_acknowledge_around($1, $2, $3, $4, $5, $6::bigint[]) as held`,
    bury: `select ${s}.headrace_queue1_bury($1, $2, $3, $4, $5, $6) as held`,
    extend: `update ${s}.headrace_queue_place set ends = clock_timestamp() + $5 * interval '1 millisecond'
      where topic = $1 and partition = $2 and name = $3 and epoch = $4 and held`,
    release: `update ${s}.headrace_queue_place set held = false where topic = $1 and partition = $2 and name = $3 and epoch = $4`,
    peek: `select ${message} from ${s}.headrace_queue_message m
      where topic = $1 and partition = $2 and ${mine} and exists (select from ${s}.headrace_queue_place l
        where l.topic = $1 and l.partition = $2 and l.name = $3 and (position > l.acked or position = any (l.open)))
      order by position limit $4`,
    counts: `select l.partition, cardinality(l.open) + q.next - 1 - l.acked - (select count(*) from ${s}.headrace_queue_message m
        where m.topic = l.topic and m.partition = l.partition and m.position > l.acked and m.only_for is not null and m.only_for <> l.name) as depth,
      q.delayed, (select count(*) from ${s}.headrace_queue_dead d where d.topic = l.topic and d.name = l.name and d.partition = l.partition) as dead,
      coalesce((select published_at from ${s}.headrace_queue_message m where m.topic = l.topic and m.partition = l.partition and m.position = l.open[1]),
        (select published_at from ${s}.headrace_queue_message m where m.topic = l.topic and m.partition = l.partition and m.position > l.acked
        and (m.only_for is null or m.only_for = l.name) order by m.position limit 1)) as oldest,
      l.acked, l.epoch, l.held and l.ends > clock_timestamp() as leased
      from ${s}.headrace_queue_place l join ${s}.headrace_queue_part q using (topic, partition)
      where l.topic = $1 and l.name = $2 order by l.partition`,
    dead: `select m.n, m.partition, ${message}, m.malformed, m.code, m.reason, m.attempts, m.died_at from ${s}.headrace_queue_dead m
      where topic = $1 and name = $2 and n > $3 order by n limit $4`,
    redrive: `select ${s}.headrace_queue1_redrive($1, $2, $3, $4) as moved`,
    drop: `delete from ${s}.headrace_queue_dead where topic = $1 and name = $2 and n = any ($3)`,
    purge: `select ${s}.headrace_queue1_purge($1, $2) as purged`,
    paused: `select paused from ${s}.headrace_queue_group where topic = $1 and name = $2`,
    setPaused: `with done as (update ${s}.headrace_queue_group set paused = $3 where topic = $1 and name = $2 returning topic)
      select pg_notify('${queueChannel}', topic || ' *') from done`,
  }
}

type QueueCall =
  | 'version'
  | 'tables'
  | 'declare'
  | 'open'
  | 'topics'
  | 'groups'
  | 'append'
  | 'lease'
  | 'take'
  | 'takeOpen'
  | 'openAt'
  | 'promote'
  | 'wait'
  | 'acknowledge'
  | 'acknowledgeAround'
  | 'bury'
  | 'extend'
  | 'release'
  | 'peek'
  | 'counts'
  | 'dead'
  | 'redrive'
  | 'drop'
  | 'purge'
  | 'paused'
  | 'setPaused'

/** What a declaration sends. */
export const declaration = ({ name, partitions, messagesMax, groups }: TopicOptions): readonly unknown[] => [
  name,
  partitions,
  messagesMax,
  groups,
]
