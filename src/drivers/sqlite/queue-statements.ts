/** The statements on a queue file: prepared once, run by `queue-store.ts`. */
import type { StatementSyncInstance } from '@photostructure/sqlite'
import { messageColumns } from './queue-schema.ts'

const inPartition = 'topic = ?1 and partition = ?2'
const here = 'topic = ?1 and partition = ?2 and name = ?3'
const live = 'held = 1 and from_us <= ?4 and from_us + ttl_us > ?4'

export const queueStatements = {
  topicByName: 'select n, name, partitions, messages_max from topic where name = ?1',
  topics: 'select name from topic order by name',
  addTopic: 'insert into topic (name, partitions, messages_max) values (?1, ?2, ?3)',
  setMax: 'update topic set messages_max = ?2 where n = ?1',
  addPart: 'insert into part (topic, partition, next, floor, delayed) values (?1, ?2, 1, 0, 0)',
  groups: 'select name from consumers where topic = ?1 order by name',
  group: 'select paused from consumers where topic = ?1 and name = ?2',
  addGroup: 'insert into consumers (topic, name, paused) values (?1, ?2, 0) on conflict do nothing',
  addPlaces: `insert into place (topic, name, partition, acked, epoch, held, from_us, ttl_us)
    select topic, ?2, partition, case when ?3 then floor else next - 1 end, 0, 0, 0, 0 from part where topic = ?1`,
  setPaused: 'update consumers set paused = ?3 where topic = ?1 and name = ?2',
  part: `select next, floor, delayed, (select min(acked) from place where ${inPartition}) as slowest from part where ${inPartition}`,
  setPart: `update part set next = ?3, delayed = ?4 where ${inPartition}`,
  setFloor: `update part set floor = ?3 where ${inPartition}`,
  put: `insert into message (topic, partition, position, ${messageColumns}, redriven, origin, only_for)
    values (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, 0, ?3, null) on conflict do nothing`,
  putAgain: `insert into message (topic, partition, position, ${messageColumns}, redriven, origin, only_for)
    values (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)`,
  trim: `delete from message where ${inPartition} and position <= ?3
    and position not in (select value from place, json_each(place.open) where ${inPartition})`,
  putLate: `insert into delayed (topic, partition, ${messageColumns}) values (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8) on conflict do nothing`,
  isLate: `select 1 from delayed where ${inPartition} and id = ?3`,
  isThere: `select 1 from message where ${inPartition} and id = ?3 and only_for is null`,
  nextDue: `select min(available_at) as at from delayed where ${inPartition}`,
  due: `select n, ${messageColumns} from delayed where ${inPartition} and available_at <= ?3 order by available_at, n limit ?4`,
  dropLate: 'delete from delayed where n = ?1',
  place: `select acked, epoch, held, from_us, ttl_us, open from place where ${here}`,
  isLive: `select 1 from place where ${here} and ${live}`,
  hold: `update place set epoch = ?4, held = 1, from_us = ?5, ttl_us = ?6 where ${here}`,
  extend: `update place set from_us = ?5, ttl_us = ?6 where ${here} and epoch = ?4 and held = 1`,
  letGo: `update place set held = 0 where ${here} and epoch = ?4`,
  ack: `update place set acked = max(acked, ?4), open = ?5 where ${here} and (acked < ?4 or open <> ?5)`,
  read: `select partition, position, ${messageColumns}, redriven from message
    where ${inPartition} and position > ?3 and (only_for is null or only_for = ?4) order by position limit ?5`,
  readAt: `select partition, position, ${messageColumns}, redriven from message where ${inPartition} and position = ?3`,
  oldest: `select published_at from message where ${inPartition} and position > ?3 and (only_for is null or only_for = ?4) order by position limit 1`,
  others: `select count(*) as n from message where ${inPartition} and position > ?3 and only_for is not null and only_for <> ?4`,
  origin: `select origin from message where ${inPartition} and position = ?3`,
  bury: `insert into dead (topic, partition, name, position, ${messageColumns}, redriven, origin, malformed, code, reason, attempts, died_at)
    values (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17) on conflict do nothing`,
  deadCount: `select count(*) as n from dead where ${here}`,
  dead: 'select * from dead where topic = ?1 and name = ?2 and n > ?3 order by n limit ?4',
  deadFirst: 'select * from dead where topic = ?1 and name = ?2 order by partition, origin limit ?3',
  deadOne: 'select * from dead where topic = ?1 and name = ?2 and n = ?3',
  dropDead: 'delete from dead where topic = ?1 and name = ?2 and n = ?3',
} as const

export type QueueStatements = { readonly [K in keyof typeof queueStatements]: StatementSyncInstance }
