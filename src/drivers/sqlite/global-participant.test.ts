import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { DatabaseSyncInstance } from '@photostructure/sqlite'
import { afterAll, beforeAll, describe, it } from 'vitest'
import { participantConformance } from '../../testing/participant-conformance.ts'
import { sqlite } from './database.ts'

const schema = `
  create table if not exists item (id text primary key not null, n integer not null, note text);
  create table if not exists pair (a text, b integer, n integer not null, primary key (a, b))`

let folder: string

beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'headrace-participant-'))
})
afterAll(() => rmSync(folder, { recursive: true, force: true }))

const open = (name: string) => sqlite(name, { file: join(folder, 'shop.sqlite'), schema }).connect()

participantConformance({ describe, it }, 'sqlite', {
  open: ({ name = 'left' } = {}) => open(name),
  async empty() {
    const participant = await open('left')
    const branch = await participant.begin({ gid: `empty_${Date.now()}`, statementTimeoutMs: 5_000 })
    await branch.database.sql`delete from item`
    await branch.database.sql`delete from pair`
    await branch.commit()
    await participant.forget([branch.gid])
    await participant.close()
  },
  insertRaw: async (client, id, n) => {
    ;(client as DatabaseSyncInstance).prepare('insert into item (id, n) values (?, ?)').run(id, n)
  },
  concurrent: false,
  setsItselfUp: true,
})
