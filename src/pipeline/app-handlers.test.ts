import { describe, expect, it } from 'vitest'
import { z } from 'zod'
import { codeOf, heard, rowsOf, started, temporaryFolder } from '../../test/support/apps.ts'
import type { Database } from '../contracts/database.ts'
import { sqlite } from '../drivers/sqlite/index.ts'
import { type AnyCommand, accept, type App, type AppOptions, command, defineApp, HeadraceError, reject } from '../index.ts'

const fast = { retryBaseMs: 1, retryMaxMs: 1 }
const input = z.object({ n: z.number() })
const key = ({ n }: { readonly n: number }): number => n

function store() {
  return sqlite('store', { schema: 'create table if not exists t (n integer primary key)' })
}

async function appOf(commands: readonly AnyCommand[], options: AppOptions = {}): Promise<App> {
  return started(defineApp({ name: 'handlers', commands, dataDir: temporaryFolder(), ...fast, ...options }))
}

const stored = (app: App): number[] =>
  rowsOf<{ n: number }>(`${app.options.dataDir}/store.sqlite`, 'select n from t order by n').map(({ n }) => n)

describe('a handler that never settles', () => {
  it('in run is given up after its time, alone: its neighbours take effect', async () => {
    const good = store()
    const databases = { store: good }
    let aborted = false
    const hang = command('hang.run', {
      input,
      key,
      databases,
      retries: 0,
      timeoutMs: 30,
      run: async ({ input, databases, signal }) => {
        await databases.store.insertMany('t', [input])
        if (input.n === 2) {
          signal.addEventListener('abort', () => {
            aborted = true
          })
          await new Promise(() => undefined)
        }
        return accept()
      },
    })
    const app = await appOf([hang])
    const outcomes = await Promise.all([1, 2, 3].map((n) => app.submit(hang, { n })))
    expect(outcomes).toMatchObject([{ status: 'committed' }, { status: 'failed', code: 'handler-timeout' }, { status: 'committed' }])
    expect(aborted).toBe(true)
    expect(stored(app)).toEqual([1, 3])
  })

  for (const stage of ['load', 'save'] as const) {
    it(`in ${stage} is given up after its time, and other commands go on`, async () => {
      const databases = { store: store() }
      const handlers = {
        load: async (batch: readonly { readonly input: { readonly n: number } }[]) => {
          if (stage === 'load' && batch.some(({ input }) => input.n === 2)) await new Promise(() => undefined)
          return null
        },
        decide: () => accept(),
        save: async (_state: null, accepted: readonly { readonly input: { readonly n: number } }[], db: { readonly store: Database }) => {
          await db.store.insertMany(
            't',
            accepted.map(({ input }) => input),
          )
          if (stage === 'save' && accepted.some(({ input }) => input.n === 2)) await new Promise(() => undefined)
        },
      }
      const hang = command('hang.batch', { input, key, databases, retries: 0, timeoutMs: 20, ...handlers })
      const app = await appOf([hang])
      const outcomes = await Promise.all([1, 2, 3, 4].map((n) => app.submit(hang, { n })))
      expect(outcomes).toMatchObject([
        { status: 'committed' },
        { status: 'failed', code: 'handler-timeout' },
        { status: 'committed' },
        { status: 'committed' },
      ])
      expect(stored(app)).toEqual([1, 3, 4])
    })
  }

  it('is bounded too when it answers with something that only looks like a promise', async () => {
    // biome-ignore lint/suspicious/noThenProperty: query builders are such things
    const thenable = { then: () => undefined } as unknown as Promise<never>
    const hang = command('hang.thenable', { input, key, retries: 0, timeoutMs: 20, run: () => thenable })
    const app = await appOf([hang])
    expect(await app.submit(hang, { n: 1 })).toMatchObject({ status: 'failed', code: 'handler-timeout' })
  })

  it('in an asynchronous schema is bounded at the door and in the lane', async () => {
    let stuck = true
    const slow = command('hang.schema', {
      input: input.refine(async () => (stuck ? new Promise<boolean>(() => undefined) : true)),
      key,
      retries: 0,
      timeoutMs: 20,
      run: () => accept(),
    })
    const app = await appOf([slow])
    expect(await codeOf(app.submit(slow, { n: 1 }))).toBe('handler-timeout')
    stuck = false
    expect(await app.submit(slow, { n: 1 })).toMatchObject({ status: 'committed' })
  })
})

describe('a handler that uses its handle after its end', () => {
  it('is refused, and what it tried does not take effect', async () => {
    const databases = { store: store() }
    let late: Database | undefined
    const keep = command('handle.keep', {
      input,
      key,
      databases,
      run: async ({ databases }) => {
        late = databases.store
        return accept()
      },
    })
    const app = await appOf([keep])
    await app.submit(keep, { n: 1 })
    expect(await codeOf((late as Database).insertMany('t', [{ n: 99 }]))).toBe('transaction-closed')
    expect(await codeOf((late as Database).sql`select 1`)).toBe('transaction-closed')
    expect(stored(app)).toEqual([])
  })

  it('because it was too slow is refused, and leaves nothing', async () => {
    const databases = { store: store() }
    let lateCode: Promise<string> | undefined
    const slow = command('handle.slow', {
      input,
      key,
      databases,
      retries: 0,
      timeoutMs: 20,
      run: async ({ databases, signal }) => {
        await databases.store.insertMany('t', [{ n: 1 }])
        await new Promise((resolve) => signal.addEventListener('abort', resolve))
        // The batch is being undone by now; wait until it is.
        lateCode = new Promise(setImmediate).then(() => codeOf(databases.store.insertMany('t', [{ n: 2 }])))
        return accept()
      },
    })
    const app = await appOf([slow])
    expect(await app.submit(slow, { n: 1 })).toMatchObject({ status: 'failed', code: 'handler-timeout' })
    expect(await lateCode).toBe('transaction-closed')
    expect(stored(app)).toEqual([])
  })

  it('or does not await a statement that fails, cannot commit the rest of its work', async () => {
    const databases = { store: store() }
    const careless = command('handle.careless', {
      input,
      key,
      databases,
      retries: 0,
      run: async ({ input, databases }) => {
        await databases.store.insertMany('t', [input])
        void databases.store.insertMany('no_such_table', [input])
        return accept()
      },
    })
    const app = await appOf([careless])
    expect(await app.submit(careless, { n: 1 })).toMatchObject({ status: 'failed', code: 'sql-failed' })
    expect(stored(app)).toEqual([])
  })
})

describe('a decide() that', () => {
  const batchOf = (name: string, decide: (state: { left: number; log: number[] }, input: { readonly n: number }) => never) =>
    command(name, {
      input,
      key: () => 'k',
      databases: { store: store() },
      retries: 0,
      load: () => ({ left: 3, log: [] as number[] }),
      decide,
      save: async (_state, accepted, db) =>
        void (await db.store.insertMany(
          't',
          accepted.map(({ input }) => input),
        )),
    })

  it('returns a promise fails its command, and the promise does no harm when it is rejected later', async () => {
    const later = batchOf('decide.later', (async () => {
      throw new Error('too late')
    }) as never)
    const app = await appOf([later])
    expect(await app.submit(later, { n: 1 })).toMatchObject({
      status: 'failed',
      code: 'decide-invalid',
      detail: expect.stringContaining('a promise'),
    })
    expect(stored(app)).toEqual([])
  })

  it.each([
    ['nothing', undefined],
    ['null', null],
    ['true', true],
    ['a bare result', { orderId: 1 }],
    ['a rejection without a code', { accepted: false, code: '' }],
    ['a bigint', 5n],
  ])('answers %s fails its command for good', async (_what, answer) => {
    let tries = 0
    const odd = batchOf('decide.odd', (() => {
      tries += 1
      return answer
    }) as never)
    const app = await appOf([odd])
    expect(await app.submit(odd, { n: 1 })).toMatchObject({ status: 'failed', code: 'decide-invalid' })
    expect(tries).toBe(1)
  })

  it('answers with something that holds itself fails its command for good', async () => {
    const ring: Record<string, unknown> = {}
    ring['ring'] = ring
    const odd = batchOf('decide.ring', (() => ring) as never)
    const app = await appOf([odd])
    expect(await app.submit(odd, { n: 1 })).toMatchObject({ status: 'failed', code: 'decide-invalid' })
  })

  it('changes the state and then rejects fails its command; nothing of it is saved, and the others are decided without it', async () => {
    const impure = batchOf('decide.impure', ((state: { left: number; log: number[] }, { n }: { readonly n: number }) => {
      if (n === 13) state.left -= 2
      if (state.left < 1 || n === 13) return reject('sold-out')
      state.left -= 1
      return accept(state.left)
    }) as never)
    const app = await appOf([impure])
    const outcomes = await Promise.all([1, 13, 2, 3, 4].map((n) => app.submit(impure, { n })))
    expect(outcomes).toMatchObject([
      { status: 'committed', result: 2 },
      { status: 'failed', code: 'decide-impure' },
      { status: 'committed', result: 1 },
      { status: 'committed', result: 0 },
      { status: 'rejected', code: 'sold-out' },
    ])
    expect(stored(app)).toEqual([1, 2, 3])
  })
})

describe('a result that', () => {
  it.each([
    ['holds a bigint', { n: 1n }],
    [
      'holds itself',
      (() => {
        const ring: Record<string, unknown> = {}
        ring['ring'] = ring
        return ring
      })(),
    ],
    [
      'throws while it is written',
      {
        toJSON: () => {
          throw new Error('no')
        },
      },
    ],
    ['is larger than resultBytesMax', 'x'.repeat(200)],
    ['has fewer characters than resultBytesMax, but more bytes', '日'.repeat(60)],
  ])('%s fails its command for good and undoes what it wrote', async (_what, result) => {
    const databases = { store: store() }
    const odd = command('result.odd', {
      input,
      key,
      databases,
      run: async ({ input, databases }) => {
        await databases.store.insertMany('t', [input])
        return accept(result)
      },
    })
    const app = await appOf([odd], { resultBytesMax: 100 })
    const retries = heard('headrace:retry')
    expect(await app.submit(odd, { n: 1 })).toMatchObject({ status: 'failed', code: 'result-invalid' })
    expect(stored(app)).toEqual([])
    expect(retries).toEqual([])
  })

  it('is nothing becomes null', async () => {
    const empty = command('result.empty', { input, key, run: () => accept(undefined) })
    const app = await appOf([empty])
    expect(await app.submit(empty, { n: 1 })).toMatchObject({ status: 'committed', result: null })
  })

  it('is a rejection larger than resultBytesMax fails its command as well', async () => {
    const wordy = command('result.wordy', { input, key, run: () => reject('no', 'x'.repeat(200)) })
    const app = await appOf([wordy], { resultBytesMax: 100 })
    expect(await app.submit(wordy, { n: 1 })).toMatchObject({ status: 'failed', code: 'result-invalid' })
  })
})

describe('an error of something else that a handler called', () => {
  it('fails that command alone, even when it says that a retry may help', async () => {
    const busy = command('call.busy', {
      input,
      key,
      databases: { store: store() },
      retries: 1,
      run: async ({ input, databases }) => {
        if (input.n === 2) throw new HeadraceError('overloaded', 'another app is busy')
        await databases.store.insertMany('t', [input])
        return accept()
      },
    })
    const app = await appOf([busy], { batchRetriesMax: 2 })
    const retries = heard('headrace:retry')
    const outcomes = await Promise.all([1, 2, 3].map((n) => app.submit(busy, { n })))
    expect(outcomes).toMatchObject([{ status: 'committed' }, { status: 'failed', code: 'overloaded' }, { status: 'committed' }])
    expect(retries.filter(({ way }) => way === 'whole')).toEqual([])
  })
})
