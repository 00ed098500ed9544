import { describe, it } from 'vitest'
import { participantConformance } from '../../testing/participant-conformance.ts'
import { MemoryParticipant, MemoryStore } from './index.ts'
import type { Session } from './participant-store.ts'

const tables = { item: { key: 'id' }, pair: { key: ['a', 'b'] } }
const store = new MemoryStore('shop', tables)

/** What a database without SQL and without Headrace's tables does not promise. */
const notPromised = new Set([
  'says which tables are missing, and how to make them',
  'finds nothing wrong with a database that is set up, and can be set up twice',
  'keeps the branches of two participants of one database apart',
  'insert, update, add, upsert and delete sets of rows, and count them',
  'find rows by sets of values, each value once',
  'take keys of several columns',
  'keep integers beyond 2^53 to the last unit',
  'bind values and never paste them',
  'refuse what they cannot do as it is asked, and nothing of it happens',
])
const runner = Object.assign(
  (name: string, run: () => Promise<void>): void => {
    if (notPromised.has(name)) it.skip(name, run)
    else it(name, run)
  },
  { skip: it.skip },
)

participantConformance({ describe, it: runner }, 'memory', {
  open: async ({ name = 'left' } = {}) => new MemoryParticipant(name, store, { tables, lockWaitMs: 300 }),
  empty: async () => {
    for (const table of store.tables.values()) table.rows.clear()
  },
  insertRaw: async (client, id, n) => {
    store.write(client as Session, 'item', `string:${id}`, { id, n, note: null })
  },
  byHand: async (end, gid) => {
    store.endPrepared(gid, end)
  },
})
