/**
 * An fsync of a SQLite file that fails in the commit that carries a decision.
 * The disk may have the commit, or not: so nobody is told either, nothing more
 * is written by that process, and the next one finds out, and ends the other
 * databases by it.
 *
 * strace makes the n-th fsync of the process fail, once: a retry would succeed,
 * and is looked for in its record.
 */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { postgres } from '../../src/drivers/postgres/index.ts'
import { sqlite } from '../../src/drivers/sqlite/index.ts'
import { type Server, serverMissing, startPostgres } from '../../src/testing/servers/index.ts'
import { listDoubts, openSite } from '../../src/transaction/index.ts'
import { because, whyNoStrace } from '../crash/disk.ts'

const why = whyNoStrace() ?? serverMissing('postgres')
const schema = `create table if not exists account (name varchar(40) primary key, balance bigint not null);
  create table if not exists entry (id varchar(40) primary key, amount bigint not null)`
const syncs = 'fdatasync,fsync'
/** Every fsync up to this one fails once: those of the opening, and of the commits behind it. */
const failingMax = 6
const transfers = 3
/** The process ends soon although its transactions cannot, and drops nothing meanwhile. */
const limits = { settleWaitMs: 100, phase2WaitMs: 100, closeTimeoutMs: 500, forgetEveryMs: 60_000 }

interface Line {
  readonly begun?: string
  readonly done?: string
  readonly failed?: string
  readonly code?: string
}

describe.skipIf(why !== null)(`an fsync that fails in the commit of home${because(why)}`, () => {
  let pg: Server
  const folder = mkdtempSync(join(tmpdir(), 'headrace-fsync-'))
  const places = (): Record<string, { name: string; engine: 'postgres' | 'sqlite'; url: string }> => ({
    p: { name: 'p', engine: 'postgres', url: pg.url },
    s: { name: 's', engine: 'sqlite', url: join(folder, 'shop.sqlite') },
  })
  const site = async () =>
    openSite({
      deployment: 'crash',
      databases: [postgres('p', { url: pg.url, schema }), sqlite('s', { file: join(folder, 'shop.sqlite'), schema })],
    })

  beforeAll(async () => {
    pg = await startPostgres()
    const { participants, close } = await site()
    for (const participant of participants.values()) {
      await participant.migrate()
      const branch = await participant.begin({ gid: `setup_${participant.name}`, statementTimeoutMs: 5_000 })
      await branch.database.insertMany('account', [{ name: 'x', balance: 1_000 }])
      await branch.commit()
    }
    await close()
  })
  afterAll(async () => {
    await pg?.stop()
    rmSync(folder, { recursive: true, force: true })
  })

  let from = 0
  for (const names of [['s'], ['p', 's']]) {
    test(`tells nobody how it ended, retries nothing, and is found out by the next process: ${names.join(' and ')}`, async () => {
      const databases = names.map((name) => places()[name])
      const met = new Set<string>()
      for (let failing = 1; failing <= failingMax; failing += 1) {
        const { lines, made } = await work(databases, failing)
        const codes = lines.flatMap(({ code }) => code ?? [])
        for (const code of codes) met.add(code)
        if (codes.length > 0) {
          const [first, ...later] = codes
          expect(first, `fsync ${failing}`).toBe('transaction-unknown')
          for (const code of later) expect(code, `fsync ${failing}`).toBe('storage-failed')
          const failed = made.findIndex((line) => line.includes('INJECTED'))
          expect(failed, made.join('\n')).toBeGreaterThanOrEqual(0)
          expect(made.slice(failed + 1)).toEqual([])
        }
        expect((await run({ mode: 'recover', databases })).ended).toBe(0)
        await check(names, lines)
      }
      // Some of them were those of commits.
      expect([...met].sort()).toEqual(['storage-failed', 'transaction-unknown'])
    })
  }

  async function work(databases: readonly unknown[], failing: number): Promise<{ lines: readonly Line[]; made: string[] }> {
    const record = join(folder, `record-${from}`)
    const inject = ['-e', `inject=${syncs}:error=EIO:when=${failing}`]
    from += transfers
    const { lines } = await run({ mode: 'work', databases, transfers, from, limits, faulty: true }, [
      ...['strace', '-D', '-f', '-qq', '-y', '-o', record, '-e', `trace=${syncs}`],
      ...inject,
    ])
    return {
      lines,
      made: readFileSync(record, 'utf8')
        .split('\n')
        .filter((line) => /f(data)?sync\(/.test(line)),
    }
  }

  async function check(names: readonly string[], lines: readonly Line[]): Promise<void> {
    const now = await site()
    try {
      expect(await now.participant('p').prepared('crash_')).toEqual([])
      expect(await listDoubts(now)).toEqual([])
      const done = lines.map((line) => line.done)
      for (const { begun: id } of lines) {
        if (id === undefined) continue
        const found: string[] = []
        for (const name of names) if ((await now.participant(name).reader.selectIn('entry', 'id', [id])).length > 0) found.push(name)
        if (found.length > 0 || done.includes(id)) expect(found, id).toEqual(names)
      }
    } finally {
      await now.close()
    }
  }
})

async function run(
  spec: Readonly<Record<string, unknown>>,
  under: readonly string[] = [],
): Promise<{ readonly lines: readonly Line[]; readonly ended: number | null }> {
  const worker = [process.execPath, fileURLToPath(new URL('./worker.mjs', import.meta.url)), JSON.stringify(spec)]
  const [program = '', ...given] = [...under, ...worker]
  // A start that the disk refuses ends with a stack: what it says is not looked at.
  const child = spawn(program, given, { stdio: ['ignore', 'pipe', under.length > 0 ? 'ignore' : 'inherit'] })
  const lines: Line[] = []
  const reading = createInterface({ input: child.stdout })
  reading.on('line', (text) => lines.push(JSON.parse(text) as Line))
  const [[ended]] = (await Promise.all([once(child, 'exit'), once(reading, 'close')])) as [[number | null], unknown]
  return { lines, ended }
}
