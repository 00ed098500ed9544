import { mkdtempSync, readdirSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, describe, expect, it } from 'vitest'
import { lockConformance } from '../../testing/lock-conformance.ts'
import { sqliteLocks } from './lock.ts'

const directory = mkdtempSync(join(tmpdir(), 'headrace-test-lock-'))
const file = join(directory, 'locks.sqlite')
afterAll(() => rmSync(directory, { recursive: true }))

lockConformance({ describe, it }, 'sqlite', {
  open: async (options) => sqliteLocks({ file, ...options }),
  crash: (engine) => engine.close(),
})

describe('locks in a SQLite file', () => {
  it('leave no socket behind when they are closed', () => {
    expect(readdirSync(`${file}-wake`)).toEqual([])
  })

  it('refuse what is not a file, and say what cannot be opened', () => {
    for (const bad of ['', ':memory:', 'a\0b']) expect(() => sqliteLocks({ file: bad })).toThrow(/path of a SQLite file/)
    expect(() => sqliteLocks({ file: join(directory, 'missing', 'locks.sqlite') })).toThrow(/missing/)
  })

  it('wake each other in a folder whose path is too long for a socket', async () => {
    const { mkdirSync } = await import('node:fs')
    const deep = join(directory, 'x'.repeat(120))
    mkdirSync(deep)
    const [a, b] = [sqliteLocks({ file: join(deep, 'locks.sqlite') }), sqliteLocks({ file: join(deep, 'locks.sqlite') })]
    const woken = new Promise<string>((resolve) => b.listen({ granted: resolve, broken: () => {}, gap: () => {} }))
    const request = { key: 'k', permits: 1, limit: 1, ttlMs: 30_000, waitMs: 30_000, tokenFloor: 0 }
    await a.acquire({ ...request, id: `${a.client}/1` })
    expect((await b.acquire({ ...request, id: `${b.client}/1` })).state).toBe('queued')
    await a.release('k', `${a.client}/1`)
    expect(await woken).toBe(`${b.client}/1`)
    await Promise.all([a.close(), b.close()])
  })
})
