import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fastify } from 'fastify'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import type { App } from '../../src/pipeline/app-contract.ts'
import { adminRoutes } from '../../src/server/admin.ts'
import { get, headrace, type Node, onlyDocument, post, startNode, temporaryFolder } from './headrace.ts'

/** A command that breaks while its switch is off, and whose key is blocked by it. */
const app = `
  import { existsSync } from 'node:fs'
  import { accept, command, defineApp, query } from 'headrace'
  import { sqlite } from 'headrace/sqlite'
  const any = { '~standard': { version: 1, vendor: 'test', validate: (value: unknown) => ({ value: value as any }) } } as const
  const log = sqlite('log', { schema: 'create table if not exists log (n integer primary key, id text not null)' })
  const write = command('log.write', {
    input: any, key: (input) => input.key, databases: { log }, retries: 1, onDeadLetter: 'block',
    async run({ id, input, databases }) {
      if (input.poison && !existsSync(process.env.SWITCH!)) throw new Error('no such luck')
      await databases.log.insertMany('log', [{ id }])
      return accept()
    },
  })
  const all = query('log.all', { input: any, databases: { log }, load: async (_, { log }) => (await log.sql\`select id from log order by n\`).map((row) => row.id) })
  export default defineApp({ name: 'log', commands: [write], queries: [all], retryBaseMs: 1, retryMaxMs: 10 })`

const folder = temporaryFolder()
const file = join(folder.path, 'app.ts')
const dataDir = join(folder.path, 'data')
const environment = { SWITCH: join(folder.path, 'switch') }
let node: Node

beforeAll(async () => {
  writeFileSync(file, app)
  node = await startNode(file, dataDir, [], { environment })
})
afterAll(async () => {
  await node.stop()
  folder.drop()
})

interface Letter {
  readonly position: number
  readonly id: string
  readonly key: string
  readonly code: string
  readonly message: string
  readonly input: unknown
}

async function letters(...more: string[]): Promise<Letter[]> {
  const { stdout } = await headrace(['dlq', 'ls', '--json', ...(more.length > 0 ? more : ['--url', node.url])])
  return stdout === ''
    ? []
    : stdout
        .trimEnd()
        .split('\n')
        .map((line) => JSON.parse(line) as Letter)
}

const poison = async (key: string, id: string): Promise<void> => {
  expect(await post(node.url, 'log.write', id, { key, poison: true })).toMatchObject({
    status: 500,
    body: { status: 'failed', code: 'handler-failed' },
  })
}

describe('headrace dlq', () => {
  it('has nothing to list at first, and lists, shows, redrives and drops what failed', async () => {
    expect(await letters()).toEqual([])
    expect((await headrace(['dlq', 'ls', '--url', node.url])).stdout).toContain('No dead letters')
    await poison('a', 'bad-1')
    await poison('b', 'bad-2')

    // Two more wait behind the blocked key of the first.
    const waiting = ['good-1', 'good-2'].map((id) => post(node.url, 'log.write', id, { key: 'a' }))
    const found = await letters()
    expect(found).toMatchObject([
      { id: 'bad-1', key: 'a', code: 'handler-failed', input: { key: 'a', poison: true } },
      { id: 'bad-2', key: 'b' },
    ])
    const [first, second] = found as [Letter, Letter]
    expect(first.message).toContain('no such luck')

    const table = await headrace(['dlq', 'ls', '--url', node.url])
    expect(table.stdout).toMatch(new RegExp(`${first.position} +log\\.write +a +bad-1 +handler-failed .*blocks its key`))
    expect(await letters('--url', node.url, '--after', String(first.position))).toMatchObject([{ id: 'bad-2' }])
    const shown = await headrace(['dlq', 'show', String(first.position), '--url', node.url])
    expect(shown.code).toBe(0)
    expect(shown.stdout).toContain('no such luck')
    expect(shown.stdout).toContain('"poison": true')

    writeFileSync(environment.SWITCH, '')
    const redriven = await headrace(['dlq', 'redrive', String(first.position), '--url', node.url, '--json'])
    expect(redriven.code).toBe(0)
    expect(onlyDocument(redriven)).toEqual({ position: first.position, done: 'redrive' })
    expect((await Promise.all(waiting)).map(({ body }) => body['status'])).toEqual(['committed', 'committed'])
    const [head, ...rest] = (await get(`${node.url}/queries/log.all`)).body as unknown as string[]
    expect(head).toBe('bad-1')
    expect(rest).toEqual(['good-1', 'good-2'])

    expect((await headrace(['dlq', 'drop', String(second.position), '--url', node.url])).code).toBe(0)
    expect(await post(node.url, 'log.write', 'good-3', { key: 'b' })).toMatchObject({ status: 200 })
    expect(await letters()).toEqual([])
  })

  it('ends with 1 for a dead letter that is not there, and goes on with the others', async () => {
    const missing = await headrace(['dlq', 'show', '999999', '--url', node.url, '--json'])
    expect(missing.code).toBe(1)
    expect(onlyDocument(missing)).toMatchObject({ error: { code: 'dead-letter-unknown' } })
    const { code, stdout } = await headrace(['dlq', 'drop', '999998', '999999', '--url', node.url])
    expect(code).toBe(1)
    expect(stdout.trimEnd().split('\n')).toHaveLength(2)
  })

  it('reads a data directory while no node runs there', async () => {
    const other = join(folder.path, 'other')
    const stopped = await startNode(file, other, [], { environment: { SWITCH: join(folder.path, 'never') } })
    await post(stopped.url, 'log.write', 'bad-1', { key: 'a', poison: true })
    await stopped.stop()
    const [letter] = await letters('--data', other)
    expect(letter).toMatchObject({ id: 'bad-1', key: 'a', input: { key: 'a', poison: true } })
    expect((await headrace(['dlq', 'show', String(letter?.position), '--data', other])).stdout).toContain('no such luck')
    expect((await headrace(['dlq', 'show', '1000', '--data', other])).code).toBe(1)
    expect(onlyDocument(await headrace(['outcomes', 'get', 'log.write', 'bad-1', '--data', other, '--json']))).toMatchObject({
      status: 'failed',
      id: 'bad-1',
    })
    expect((await headrace(['outcomes', 'get', 'log.write', 'bad-2', '--data', other])).code).toBe(1)
    expect((await headrace(['dlq', 'ls', '--data', folder.path])).code).toBe(2)
  })

  it('ends with 3 when no node answers', async () => {
    expect((await headrace(['dlq', 'ls', '--url', 'http://127.0.0.1:9'])).code).toBe(3)
  })
})

describe('headrace outcomes get', () => {
  it('shows what became of a command, and ends with 1 for one that failed or is not known', async () => {
    await post(node.url, 'log.write', 'fine', { key: 'z' })
    const fine = await headrace(['outcomes', 'get', 'log.write', 'fine', '--url', node.url, '--json'])
    expect(fine.code).toBe(0)
    expect(onlyDocument(fine)).toMatchObject({ id: 'fine', command: 'log.write', status: 'committed' })
    expect((await headrace(['outcomes', 'get', 'log.write', 'fine', '--url', node.url])).stdout).toMatch(/status +committed/)

    const unknown = await headrace(['outcomes', 'get', 'log.write', 'never', '--url', node.url, '--json'])
    expect(unknown.code).toBe(1)
    expect(onlyDocument(unknown)).toMatchObject({ error: { code: 'outcome-unknown' } })
    const dropped = await headrace(['outcomes', 'get', 'log.write', 'bad-2', '--url', node.url])
    expect(dropped.code).toBe(1)
    expect(dropped.stdout).toMatch(/status +failed/)
  })
})

describe('the routes for operators', () => {
  /** An app of which only the dead letters are asked. */
  const asked = { deadLetters: { list: () => Promise.resolve([]) } } as unknown as App

  async function ask(options: { token?: string }, headers: Record<string, string>, remoteAddress: string): Promise<number> {
    const server = fastify()
    await server.register(adminRoutes, { app: asked, prefix: '/admin', ...options })
    const { statusCode } = await server.inject({ method: 'GET', url: '/admin/dead-letters', headers, remoteAddress })
    await server.close()
    return statusCode
  }

  it('let in this machine, and nobody who comes from elsewhere, through a proxy, or from a web page', async () => {
    expect(await ask({}, {}, '127.0.0.1')).toBe(200)
    expect(await ask({}, {}, '::1')).toBe(200)
    expect(await ask({}, {}, '::ffff:127.0.0.1')).toBe(200)
    for (const address of ['10.0.0.1', '192.168.1.2', '::2', 'fe80::1', '::ffff:10.0.0.1'])
      expect(await ask({}, {}, address), address).toBe(403)
    for (const header of ['forwarded', 'x-forwarded-for', 'x-real-ip', 'via', 'origin', 'sec-fetch-site'])
      expect(await ask({}, { [header]: 'x' }, '127.0.0.1'), header).toBe(403)
  })

  it('let in whoever has the token once there is one, and nobody else', async () => {
    const token = 'a-token-of-some-length'
    expect(await ask({ token }, { authorization: `Bearer ${token}` }, '10.0.0.1')).toBe(200)
    expect(await ask({ token }, { authorization: `Bearer ${token}x` }, '10.0.0.1')).toBe(403)
    expect(await ask({ token }, {}, '127.0.0.1')).toBe(403)
    await expect(ask({ token: 'short' }, {}, '127.0.0.1')).rejects.toThrow('at least 16')
  })

  it('are reached with the token by the command line', async () => {
    const token = 'another-token-of-some-length'
    const guarded = await startNode(file, join(folder.path, 'guarded'), ['--admin-token', token], { environment })
    expect((await headrace(['dlq', 'ls', '--url', guarded.url])).code).toBe(1)
    expect((await headrace(['dlq', 'ls', '--url', guarded.url, '--admin-token', token])).code).toBe(0)
    expect((await headrace(['dlq', 'ls', '--url', guarded.url], { environment: { HEADRACE_ADMIN_TOKEN: token } })).code).toBe(0)
    await guarded.stop()
  })
})
