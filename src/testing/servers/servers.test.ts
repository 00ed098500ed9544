import { execFileSync, spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync } from 'node:fs'
import { connect } from 'node:net'
import amqp from 'amqplib'
import { Redis } from 'ioredis'
import mysql from 'mysql2/promise'
import pg from 'pg'
import { describe, expect, it } from 'vitest'
import {
  type Server,
  type ServerKind,
  serverMissing,
  startMariadb,
  startMemcached,
  startPostgres,
  startRabbitmq,
  startRedis,
} from './index.ts'

/** One round trip that proves that the server answers. */
const ask: Record<ServerKind, (server: Server) => Promise<string>> = {
  async redis(server) {
    const client = new Redis(server.url, { lazyConnect: true, retryStrategy: () => null })
    client.on('error', () => {})
    await client.connect()
    const answer = await client.ping()
    client.disconnect()
    return answer
  },
  async postgres(server) {
    const client = new pg.Client({ connectionString: server.url })
    client.on('error', () => {})
    await client.connect()
    const { rows } = await client.query('select 1 as one')
    await client.end()
    return String(rows[0].one)
  },
  async mariadb(server) {
    const client = await mysql.createConnection(server.url)
    const [rows] = await client.query('select database() as name')
    await client.end()
    return (rows as { name: string }[])[0]?.name ?? ''
  },
  async rabbitmq(server) {
    const connection = await amqp.connect(server.url)
    const { version } = connection.connection.serverProperties
    await connection.close()
    return version
  },
  async memcached(server) {
    const socket = connect(server.port, server.host)
    socket.write('version\r\n')
    const [answer] = await once(socket, 'data')
    socket.destroy()
    return String(answer)
  },
}

const start: Record<ServerKind, () => Promise<Server>> = {
  redis: startRedis,
  postgres: startPostgres,
  mariadb: startMariadb,
  memcached: startMemcached,
  rabbitmq: startRabbitmq,
}

for (const kind of ['redis', 'postgres', 'mariadb', 'memcached', 'rabbitmq'] as const) {
  const missing = serverMissing(kind)
  describe.skipIf(missing !== null)(`the test server ${kind}${missing === null ? '' : ` (${missing})`}`, () => {
    it('answers, survives a pause, a kill and a restart, and leaves nothing behind', { timeout: 120_000 }, async () => {
      const server = await start[kind]()
      expect(await ask[kind](server)).not.toBe('')
      server.pause()
      const waiting = ask[kind](server)
      expect(await Promise.race([waiting, new Promise((resolve) => setTimeout(resolve, 150, 'silent'))])).toBe('silent')
      server.resume()
      await waiting
      const { pid, port, directory } = server
      await server.kill('SIGKILL')
      await expect(ask[kind](server)).rejects.toThrow()
      await server.restart()
      expect(server.port).toBe(port)
      expect(server.pid).not.toBe(pid)
      await ask[kind](server)
      await server.stop()
      await expect(ask[kind](server)).rejects.toThrow()
      expect(existsSync(directory)).toBe(false)
    })
  })
}

describe.skipIf(serverMissing('redis') !== null)('a test process that dies', () => {
  it('takes its servers and folders with it', { timeout: 30_000 }, async () => {
    const program = `
      const { createJiti } = await import('jiti')
      const { startRedis } = await createJiti(${JSON.stringify(import.meta.url)}).import('./index.ts')
      const server = await startRedis()
      process.stdout.write(JSON.stringify({ pid: server.pid, directory: server.directory }))
      setInterval(() => {}, 1000)`
    const child = spawn(process.execPath, ['--input-type=module', '-e', program], { stdio: ['ignore', 'pipe', 'inherit'] })
    const [said] = (await once(child.stdout, 'data')) as [Buffer]
    const { pid, directory } = JSON.parse(said.toString()) as { pid: number; directory: string }
    const alive = (): boolean => {
      try {
        return !/^State:\s+Z/m.test(execFileSync('cat', [`/proc/${pid}/status`], { encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] }))
      } catch {
        return false
      }
    }
    expect(alive()).toBe(true)
    child.kill('SIGKILL')
    await once(child, 'exit')
    await expect.poll(() => alive() || existsSync(directory), { timeout: 5_000, interval: 20 }).toBe(false)
  })
})
