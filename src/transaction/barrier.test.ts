/** The receiving side in real databases: what comes twice, late, early, in another order, or for nothing. */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { DatabaseSync } from '@photostructure/sqlite'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import type { Database } from '../contracts/database.ts'
import { HeadraceError } from '../contracts/errors.ts'
import type { Participant } from '../contracts/participant.ts'
import { mysql } from '../drivers/mysql/index.ts'
import { postgres } from '../drivers/postgres/index.ts'
import { writeHandle } from '../drivers/sqlite/handle.ts'
import { Verbs } from '../drivers/sqlite/verbs.ts'
import { createRandom } from '../std/random.ts'
import { type Server, serverMissing, startMariadb, startPostgres } from '../testing/servers/index.ts'
import {
  type BranchCall,
  barrier,
  branchCall,
  type CallOperation,
  mysqlBarrierSql,
  postgresBarrierSql,
  pruneBarrier,
  receiveCall,
  sqliteBarrierSql,
} from './barrier.ts'
import { StepRefused } from './saga/records.ts'

type Transact = <T>(use: (database: Database) => Promise<T>) => Promise<T>
interface Place {
  readonly transact: Transact
  close(): Promise<void>
}

const account = 'create table if not exists account (name varchar(60) primary key, balance bigint not null)'

const engines: Readonly<Record<string, { readonly missing: string | null; readonly concurrent: boolean; open(): Promise<Place> }>> = {
  postgres: {
    missing: serverMissing('postgres'),
    concurrent: true,
    open: () => onServer(startPostgres, (url) => postgres('wallet', { url, schema: `${account}; ${postgresBarrierSql}` }).connect()),
  },
  mariadb: {
    missing: serverMissing('mariadb'),
    concurrent: true,
    open: () => onServer(startMariadb, (url) => mysql('wallet', { url, schema: `${account}; ${mysqlBarrierSql}` }).connect()),
  },
  sqlite: { missing: null, concurrent: false, open: openSqlite },
}

for (const [engine, { missing, concurrent, open }] of Object.entries(engines)) {
  describe.skipIf(missing !== null)(`the barrier in ${engine}${missing === null ? '' : ` (${missing})`}`, () => {
    let place: Place
    let number = 0
    beforeAll(async () => {
      place = await open()
    }, 60_000)
    afterAll(() => place?.close())

    const branch = (): { call(operation: CallOperation): BranchCall; name: string; balance(): Promise<number> } => {
      number += 1
      const name = `account${number}`
      const gid = `test_${engine}_${number}`
      return {
        name,
        call: (operation) => ({ gid, branch: 'wallet', operation, attempt: 1 }),
        balance: () =>
          place.transact(async (database) => {
            const [row] = await database.selectIn('account', 'name', [name])
            return Number(row?.['balance'] ?? 0)
          }),
      }
    }
    const pay = (name: string, call: BranchCall, amount: number) =>
      place.transact((database) =>
        barrier(database, call, async () => {
          await database.upsertMany('account', 'name', [{ name, balance: amount }], { add: ['balance'] })
          return { paid: amount, text: 'ä𝄞' }
        }),
      )
    const codeOf = (work: Promise<unknown>): Promise<string> =>
      work.then(
        () => 'nothing',
        (error: unknown) => (HeadraceError.is(error) ? error.code : String(error)),
      )

    it('does a call once, and gives the same answer to the same call again', async () => {
      const { name, call, balance } = branch()
      const first = await pay(name, call('do'), 5)
      expect(first).toEqual({ outcome: 'done', answer: { paid: 5, text: 'ä𝄞' } })
      expect(await pay(name, call('do'), 5)).toEqual({ ...first, outcome: 'repeated' })
      expect(await balance()).toBe(5)
      expect(await pay(name, call('undo'), -5)).toMatchObject({ outcome: 'done' })
      expect(await pay(name, call('undo'), -5)).toMatchObject({ outcome: 'repeated' })
      expect(await balance()).toBe(0)
    })

    it('lets a cancel for a try that never came change nothing, and refuses the try that comes late', async () => {
      for (const [forward, back] of [
        ['do', 'undo'],
        ['try', 'cancel'],
        ['can-commit', 'abort'],
      ] as const) {
        const { name, call, balance } = branch()
        expect(await pay(name, call(back), -5)).toEqual({ outcome: 'empty', answer: undefined })
        expect(await codeOf(pay(name, call(forward), 5))).toBe('call-late')
        expect(await pay(name, call(back), -5)).toMatchObject({ outcome: 'repeated' })
        expect(await balance()).toBe(0)
      }
    })

    it('confirms once what was tried, and nothing that was not, or was cancelled', async () => {
      const { name, call, balance } = branch()
      expect(await codeOf(pay(name, call('confirm'), 5))).toBe('call-early')
      expect(await pay(name, call('try'), 0)).toMatchObject({ outcome: 'done' })
      expect(await pay(name, call('confirm'), 5)).toMatchObject({ outcome: 'done' })
      expect(await pay(name, call('confirm'), 5)).toMatchObject({ outcome: 'repeated' })
      expect(await codeOf(pay(name, call('cancel'), -5))).toBe('call-late')
      expect(await balance()).toBe(5)

      const other = branch()
      await pay(other.name, other.call('try'), 0)
      await pay(other.name, other.call('cancel'), 0)
      expect(await codeOf(pay(other.name, other.call('confirm'), 5))).toBe('call-late')
      const empty = branch()
      await pay(empty.name, empty.call('cancel'), 0)
      expect(await codeOf(pay(empty.name, empty.call('confirm'), 5))).toBe('call-late')
    })

    it('has seen nothing of a call whose transaction was undone', async () => {
      const { name, call, balance } = branch()
      const failing = place.transact((database) =>
        barrier(database, call('try'), async () => {
          await database.upsertMany('account', 'name', [{ name, balance: 5 }], { add: ['balance'] })
          throw new StepRefused('poor')
        }),
      )
      await expect(failing).rejects.toThrow('poor')
      expect(await balance()).toBe(0)
      expect(await pay(name, call('try'), 5)).toMatchObject({ outcome: 'done' })
    })

    it('refuses an answer that cannot be kept, and undoes the call', async () => {
      const { call } = branch()
      const big = place.transact((database) => barrier(database, call('do'), () => 'x'.repeat(70_000)))
      expect(await codeOf(big)).toBe('result-invalid')
      const circle: { self?: unknown } = {}
      circle.self = circle
      expect(await codeOf(place.transact((database) => barrier(database, call('do'), () => circle)))).toBe('result-invalid')
      expect(await place.transact((database) => barrier(database, call('do'), () => undefined))).toMatchObject({ outcome: 'done' })
    })

    it.skipIf(!concurrent)('does one of many calls that come at once, and ends a race of try and cancel one way or the other', async () => {
      const { name, call, balance } = branch()
      const ends = await Promise.all(Array.from({ length: 8 }, () => persistent(() => pay(name, call('try'), 5))))
      expect(ends.filter((end) => end === 'done')).toHaveLength(1)
      expect(await balance()).toBe(5)
      for (let round = 0; round < 20; round += 1) {
        const race = branch()
        const [tried, cancelled] = await Promise.all([
          persistent(() => pay(race.name, race.call('try'), 5)),
          persistent(() => pay(race.name, race.call('cancel'), -5)),
        ])
        expect([
          ['done', 'done'],
          ['call-late', 'empty'],
        ]).toContainEqual([tried, cancelled])
        expect(await race.balance()).toBe(0)
      }
    })

    it('ends right whatever the order in which calls and their copies come', async () => {
      const seed = Number(process.env['HEADRACE_SEED'] ?? Date.now() % 1_000_000)
      const random = createRandom(seed)
      for (let round = 0; round < 25; round += 1) {
        const told = `HEADRACE_SEED=${seed}, round ${round}`
        const { name, call, balance } = branch()
        const goesForward = random.chance(0.5)
        // What a coordinator could have sent, each once or more, in any order.
        const sent = random.shuffle(
          (goesForward ? (['try', 'confirm'] as const) : (['try', 'cancel'] as const)).flatMap((each) =>
            Array.from({ length: random.between(1, 3) }, () => each),
          ),
        )
        let confirmed = 0
        for (const operation of sent) {
          const end = await persistent(() => pay(name, call(operation), operation === 'try' ? 5 : operation === 'cancel' ? -5 : 100))
          if (operation === 'confirm' && end === 'done') confirmed += 1
          if (operation === 'confirm') expect(['done', 'repeated', 'call-early'], told).toContain(end)
        }
        const left = await balance()
        if (!goesForward) expect([left, confirmed], told).toEqual([0, 0])
        else expect([left, confirmed > 1], told).toEqual([5 + 100 * confirmed, false])
      }
    })

    it('forgets what is old, transaction by transaction', async () => {
      const { name, call, balance } = branch()
      await pay(name, call('do'), 1)
      await place.transact((database) => pruneBarrier(database, 1_000))
      expect(await pay(name, call('do'), 1)).toMatchObject({ outcome: 'repeated' })
      let pruned = 0
      for (let count = 1; count > 0; pruned += count)
        count = await place.transact((database) => pruneBarrier(database, Date.now() + 1_000, 5))
      expect(pruned).toBeGreaterThan(1)
      expect(await pay(name, call('do'), 1)).toMatchObject({ outcome: 'done' })
      expect(await balance()).toBe(2)
    })

    it('answers a request with a status and a body', async () => {
      const { name, call } = branch()
      const { gid } = call('try')
      const receive = (operation: string, handler?: () => unknown) =>
        receiveCall({
          headers: { 'headrace-gid': gid, 'headrace-branch': 'wallet', 'headrace-operation': operation, 'headrace-attempt': '1' },
          transaction: place.transact,
          handlers: {
            try: async (database) => {
              await database.upsertMany('account', 'name', [{ name, balance: 1 }], { add: ['balance'] })
              return handler?.() ?? { ok: true }
            },
            confirm: () => undefined,
          },
        })
      const no = (): never => {
        throw new StepRefused('poor', 'No money.')
      }
      const defect = (): never => {
        throw new Error('secret')
      }
      expect(await receive('try', no)).toEqual({ status: 409, body: { code: 'poor', message: 'No money.' } })
      expect(await receive('try', defect)).toEqual({ status: 500, body: { code: 'service-failed', message: 'The service failed.' } })
      expect(await receive('confirm')).toMatchObject({ status: 409, body: { code: 'call-early' } })
      expect(await receive('try')).toEqual({ status: 200, body: { ok: true } })
      expect(await receive('confirm')).toEqual({ status: 200, body: null })
      expect(await receive('undo')).toMatchObject({ status: 400, body: { code: 'call-invalid' } })
    })
  })
}

describe('the headers of a call', () => {
  const right = { 'headrace-gid': 'shop_1', 'headrace-branch': 'wallet', 'headrace-operation': 'try', 'headrace-attempt': '3' }

  it('say which call of which branch it is', () => {
    expect(branchCall(right)).toEqual({ gid: 'shop_1', branch: 'wallet', operation: 'try', attempt: 3 })
  })

  it.each([
    ['no gid', { 'headrace-gid': undefined }],
    ['two gids', { 'headrace-gid': ['a', 'b'] }],
    ['a gid of other characters', { 'headrace-gid': "a';drop" }],
    ['a gid that is too long', { 'headrace-gid': 'a'.repeat(61) }],
    ['a branch that is none', { 'headrace-branch': '../x' }],
    ['an unknown operation', { 'headrace-operation': 'constructor' }],
    ['an attempt that is no number', { 'headrace-attempt': '1e9' }],
    ['attempt 0', { 'headrace-attempt': '0' }],
  ])('are refused with %s', (_, wrong) => {
    expect(() => branchCall({ ...right, ...wrong })).toThrow(expect.objectContaining({ code: 'call-invalid' }) as Error)
  })
})

/** As a coordinator would: what may pass is called again. Returns how it ended. */
async function persistent(call: () => Promise<{ readonly outcome: string }>): Promise<string> {
  for (let attempt = 0; ; attempt += 1) {
    try {
      return (await call()).outcome
    } catch (error) {
      if (!HeadraceError.is(error)) throw error
      if (!error.retryable || attempt > 20) return error.code
    }
  }
}

async function onServer(start: () => Promise<Server>, connect: (url: string) => Promise<Participant>): Promise<Place> {
  const server = await start()
  const participant = await connect(server.url)
  await participant.migrate()
  let number = 0
  return {
    async transact(use) {
      number += 1
      const branch = await participant.begin({ gid: `receive_${number}`, statementTimeoutMs: 5_000 })
      try {
        const value = await use(branch.database)
        await branch.commit()
        return value
      } catch (error) {
        await branch.abort()
        throw error
      }
    },
    async close() {
      await participant.close()
      await server.stop()
    },
  }
}

async function openSqlite(): Promise<Place> {
  const folder = mkdtempSync(join(tmpdir(), 'headrace-test-barrier-'))
  const file = new DatabaseSync(join(folder, 'wallet.sqlite'))
  file.exec(`${account}; ${sqliteBarrierSql}`)
  const verbs = new Verbs('wallet', file)
  const database = writeHandle(async (verb) => verbs.run(verb))
  return {
    async transact(use) {
      file.exec('begin immediate')
      try {
        const value = await use(database)
        file.exec('commit')
        return value
      } catch (error) {
        file.exec('rollback')
        throw error
      }
    },
    async close() {
      file.close()
      rmSync(folder, { recursive: true, force: true })
    },
  }
}
