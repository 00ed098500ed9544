/**
 * What the guard of every database promises, as tests: a write under an old
 * token is refused in its own transaction.
 */
import assert from 'node:assert/strict'
import { HeadraceError } from '../contracts/errors.ts'
import { FencedError, type Fenceable } from '../contracts/lock.ts'
import { createRandom } from '../std/random.ts'
import type { TestRunner } from './lock-conformance.ts'

/** A transaction that has passed the guard: one register per name. */
export interface FencedRegisters {
  read(name: string): Promise<number>
  write(name: string, value: number): Promise<void>
}

export interface FenceHarness {
  /** Runs a transaction that begins with the guard, on a connection of its own. */
  fenced<T>(lease: Fenceable, run: (registers: FencedRegisters) => Promise<T>): Promise<T>
  /** The registers, outside of any transaction. */
  read(name: string): Promise<number>
  /** The guard without its table; restored afterwards. */
  withoutTable(run: () => Promise<void>): Promise<void>
  /** The guard on a connection that is in no transaction, where the client can tell; else null. */
  outside: ((lease: Fenceable) => Promise<void>) | null
  /** False where transactions run one at a time anyway. */
  readonly concurrent: boolean
}

/** A lease by hand. */
export const withTokens = (...tokens: readonly (readonly [key: string, token: number])[]): Fenceable => ({ tokens: new Map(tokens) })

let names = 0
const newName = (): string => `fence:${process.pid}:${Date.now().toString(36)}:${names++}`

const fencedBy = (key: string, token: number, highest: number) => (error: unknown) =>
  error instanceof FencedError &&
  HeadraceError.is(error) &&
  error.code === 'fenced' &&
  error.key === key &&
  error.token === token &&
  error.highest === highest

export function fenceConformance({ describe, it }: TestRunner, name: string, harness: FenceHarness): void {
  describe(`the guard of ${name}`, () => {
    it('lets the same and higher tokens write, and refuses an older one, which writes nothing', async () => {
      const key = newName()
      const write = (token: number, value: number): Promise<void> =>
        harness.fenced(withTokens([key, token]), (registers) => registers.write(key, value))
      await write(1_700_000_000_000_005, 1)
      await write(1_700_000_000_000_005, 2)
      await write(1_700_000_000_000_009, 3)
      await assert.rejects(write(1_700_000_000_000_008, 4), fencedBy(key, 1_700_000_000_000_008, 1_700_000_000_000_009))
      assert.equal(await harness.read(key), 3)
      await write(1_700_000_000_000_010, 5)
      assert.equal(await harness.read(key), 5)
    })

    it('keeps nothing of a token whose transaction was rolled back', async () => {
      const key = newName()
      await assert.rejects(
        harness.fenced(withTokens([key, 9]), async (registers) => {
          await registers.write(key, 9)
          throw new Error('changed my mind')
        }),
        /changed my mind/,
      )
      await harness.fenced(withTokens([key, 5]), (registers) => registers.write(key, 5))
      assert.equal(await harness.read(key), 5)
    })

    it('keeps keys apart that differ in case, accent, normal form or a space at the end', async () => {
      const base = newName()
      for (const [index, key] of [
        base,
        `${base}A`,
        `${base}a`,
        `${base} `,
        `${base}\u00e9`,
        `${base}e\u0301`,
        `${base}e`,
        `${base}'";--`,
      ].entries()) {
        await harness.fenced(withTokens([key, 100 - index]), (registers) => registers.write(base, index))
      }
    })

    it('refuses all when one of several keys is old, and raises none of them', async () => {
      const [a, b] = [newName(), newName()]
      await harness.fenced(withTokens([b, 7]), (registers) => registers.write(b, 7))
      await assert.rejects(
        harness.fenced(withTokens([a, 9], [b, 6]), (registers) => registers.write(a, 9)),
        fencedBy(b, 6, 7),
      )
      await harness.fenced(withTokens([a, 2], [b, 7]), (registers) => registers.write(a, 2))
      assert.equal(await harness.read(a), 2)
    })

    it('says which statement to run when its table is missing', async () => {
      await harness.withoutTable(async () => {
        await assert.rejects(
          harness.fenced(withTokens([newName(), 1]), async () => {}),
          /headrace_fence is missing: run \w+FenceSql/,
        )
      })
    })

    const { outside } = harness
    if (outside !== null) {
      it('refuses to guard nothing, outside of a transaction', async () => {
        await assert.rejects(outside(withTokens([newName(), 1])), /must run inside a transaction/)
      })
    }

    if (harness.concurrent) {
      it('holds a newer token back until an older transaction that passed has ended, so that the newer reads what it wrote', async () => {
        const key = newName()
        const order: string[] = []
        let passed!: () => void
        let finish!: () => void
        const hasPassed = new Promise<void>((resolve) => {
          passed = resolve
        })
        const mayFinish = new Promise<void>((resolve) => {
          finish = resolve
        })
        const older = harness.fenced(withTokens([key, 1]), async (registers) => {
          passed()
          await mayFinish
          await registers.write(key, 41)
          order.push('older writes')
        })
        await hasPassed
        const newer = harness.fenced(withTokens([key, 2]), async (registers) => {
          order.push('newer passes')
          return registers.read(key)
        })
        // The newer one is at the guard by now, or comes to it later: both must wait.
        await new Promise((resolve) => setTimeout(resolve, 50))
        finish()
        await older
        assert.equal(await newer, 41)
        assert.deepEqual(order, ['older writes', 'newer passes'])
      })

      it('takes many first writers of a key at once without a deadlock, and ends with the highest', async () => {
        const seed = Number(process.env['HEADRACE_SEED'] ?? Date.now() % 1_000_000)
        const random = createRandom(seed)
        const key = newName()
        const tokens = random.shuffle(Array.from({ length: 24 }, (_, index) => index + 1))
        let last = 0
        const ends = await Promise.allSettled(
          tokens.map((token) =>
            harness.fenced(withTokens([key, token]), async (registers) => {
              assert.ok(token > last, `token ${token} came after ${last}`)
              last = token
              await registers.write(key, token)
            }),
          ),
        )
        for (const end of ends)
          assert.ok(
            end.status === 'fulfilled' || end.reason instanceof FencedError,
            `HEADRACE_SEED=${seed}: ${end.status === 'rejected' ? String(end.reason) : ''}`,
          )
        assert.equal(await harness.read(key), 24)
      })
    }
  })
}
