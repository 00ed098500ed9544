/** What `headrace lock ls`, `show` and `break` do. Looking at locks makes nothing: no file, no table. */
import { HeadraceError } from '../contracts/errors.ts'
import type { LockEngine } from '../contracts/lock.ts'
import { breakLock, listLocks, type LockListing } from '../lock/index.ts'
import { confirmed } from './confirm.ts'
import { CliError, exitCodes } from './exit.ts'
import { loaded } from './participants.ts'
import { requireTable } from './sqlite-file.ts'
import { count, counted, duration, table, type Terminal } from './terminal.ts'

export interface LockFlags {
  readonly url?: string
  readonly prefix?: string
  readonly schema?: string
}

export interface BreakFlags extends LockFlags {
  readonly id?: string
  readonly yes?: boolean
}

/** Locks among which one is looked for by its key. */
const keysMax = 100_000

/** Resolves with the exit code. */
export function list(terminal: Terminal, flags: LockFlags & { readonly max: number }): Promise<number> {
  return withEngine(flags, async (engine) => {
    // One more than is shown tells whether there are more.
    const found = await listLocks(engine, { max: Math.min(flags.max + 1, keysMax) })
    const locks = found.slice(0, flags.max)
    for (const lock of locks) terminal.document(lock)
    if (locks.length === 0) {
      terminal.print('No lock is held or waited for.')
      return exitCodes.ok
    }
    const heading = ['key', 'kind', 'holder', 'token', 'lease ends in', 'waiting'].map((name) => terminal.style('dim', name))
    const rows = locks.flatMap((lock) => rowsOf(terminal, lock))
    for (const line of table([heading, ...rows], ['left', 'left', 'left', 'right', 'right', 'right'])) terminal.print(line)
    terminal.print()
    terminal.print(
      found.length > locks.length
        ? `${counted(locks.length, 'lock')}, and more: raise --max.`
        : `${counted(locks.length, 'lock')}. headrace lock show <key> tells more.`,
    )
    return exitCodes.ok
  })
}

/** A line for each holder; the key, its kind and its waiters stand in the first. */
function rowsOf(terminal: Terminal, lock: LockListing): string[][] {
  const waiting = lock.waiting === 0 ? '0' : terminal.style('yellow', count(lock.waiting))
  if (lock.holders.length === 0) return [[lock.key, kindOf(lock), terminal.style('dim', 'nobody'), '', '', waiting]]
  return lock.holders.map(({ owner, token, permits, remainingMs }, index) => [
    index === 0 ? lock.key : '',
    index === 0 ? kindOf(lock) : '',
    lock.kind === 'semaphore' ? `${owner} (${permits})` : owner,
    String(token),
    duration(remainingMs),
    index === 0 ? waiting : '',
  ])
}

const kindOf = ({ kind, limit }: LockListing): string => (kind === 'semaphore' ? `semaphore of ${limit}` : kind)

/** Resolves with the exit code. */
export function show(terminal: Terminal, flags: LockFlags, key: string): Promise<number> {
  return withEngine(flags, async (engine) => {
    const lock = await lockOf(engine, key)
    terminal.document(lock)
    print(terminal, lock)
    return exitCodes.ok
  })
}

/** Resolves with the exit code. */
export function breakOne(terminal: Terminal, flags: BreakFlags, key: string): Promise<number> {
  const { id, yes } = flags
  return withEngine(flags, async (engine) => {
    const lock = await lockOf(engine, key)
    const holders = lock.holders.filter((holder) => id === undefined || holder.id === id)
    if (holders.length === 0) throw unheld(key, id)
    const what = `Take ${JSON.stringify(key)} away from ${holders.map(({ owner }) => owner).join(', ')}`
    if (!(await confirmed(terminal, { what, yes }))) return exitCodes.failed
    const broken = await breakLock(engine, key, id === undefined ? {} : { id })
    if (broken === 0) throw unheld(key, id)
    const [left = null] = (await listLocks(engine, { max: keysMax })).filter((each) => each.key === key)
    terminal.document({ key, broken, from: holders, now: left })
    terminal.print(`Broken: ${counted(broken, 'lease')} of ${JSON.stringify(key)}, token ${holders.map(({ token }) => token).join(', ')}.`)
    terminal.print('The holder stops when it hears of it; until then only the guard in the database stops what it writes.')
    if (left !== null) {
      terminal.print()
      print(terminal, left)
    }
    return exitCodes.ok
  })
}

function print(terminal: Terminal, lock: LockListing): void {
  const dim = (text: string): string => terminal.style('dim', text)
  const rows = [
    ['key', lock.key],
    ['kind', kindOf(lock)],
    ['waiting', count(lock.waiting)],
    ['last token', String(lock.lastToken)],
  ]
  for (const line of table(rows.map(([name = '', value = '']) => [dim(name), value]))) terminal.print(line)
  if (lock.holders.length === 0) return
  terminal.print()
  const holders = lock.holders.map(({ owner, token, permits, remainingMs, id }) => [
    owner,
    String(token),
    String(permits),
    duration(remainingMs),
    id,
  ])
  const heading = ['holder', 'token', 'permits', 'lease ends in', 'id'].map(dim)
  for (const line of table([heading, ...holders], ['left', 'right', 'right', 'right'])) terminal.print(line)
}

async function lockOf(engine: LockEngine, key: string): Promise<LockListing> {
  const lock = (await listLocks(engine, { max: keysMax })).find((each) => each.key === key)
  if (lock === undefined) throw unheld(key, undefined)
  return lock
}

function unheld(key: string, id: string | undefined): CliError {
  return new CliError(
    exitCodes.failed,
    'lock-unknown',
    id === undefined
      ? `Nobody holds the lock ${JSON.stringify(key)}, or waits for it.`
      : `The lock ${JSON.stringify(key)} is not held by ${JSON.stringify(id)}.`,
    'headrace lock ls shows those that are held; headrace lock show <key> their holders.',
  )
}

async function withEngine(flags: LockFlags, run: (engine: LockEngine) => Promise<number>): Promise<number> {
  const engine = await engineOf(flags)
  try {
    return await run(engine)
  } catch (error) {
    // The driver says how to make its functions; who only looks is to know that there is nothing to see.
    if (!HeadraceError.is(error) || !error.message.includes('postgresLocksSql')) throw error
    const schema = flags.schema ?? 'public'
    throw new CliError(
      exitCodes.failed,
      'locks-missing',
      `There are no locks in the schema ${schema} of this database: none was ever taken there.`,
      'Another database, or another schema: --schema.',
    )
  } finally {
    await engine.close()
  }
}

async function engineOf({ url, prefix, schema }: LockFlags): Promise<LockEngine> {
  if (url === undefined)
    throw new CliError(exitCodes.usage, 'usage', 'Where are the locks?', 'Give --url redis://…, --url postgres://…, or --url locks.sqlite.')
  const scheme = /^([a-z][a-z0-9+.-]*):\/\//i.exec(url)?.[1]?.toLowerCase()
  switch (scheme) {
    case 'redis':
    case 'rediss': {
      const { redisLocks } = await loaded('ioredis', () => import('../drivers/redis/index.ts'))
      return redisLocks({ url, ...(prefix === undefined ? {} : { prefix }) })
    }
    case 'postgres':
    case 'postgresql': {
      const { postgresLocks } = await loaded('pg', () => import('../drivers/postgres/index.ts'))
      return postgresLocks({ url, setUp: false, ...(schema === undefined ? {} : { schema }) })
    }
    case undefined:
    case 'file':
      return sqliteEngine(scheme === undefined ? url : new URL(url).pathname)
    default:
      throw new CliError(
        exitCodes.usage,
        'usage',
        `There are no locks on ${scheme}://.`,
        'Locks are in Redis, in PostgreSQL, or in a SQLite file. (MySQL and MariaDB check fencing tokens, and keep no locks.)',
      )
  }
}

async function sqliteEngine(file: string): Promise<LockEngine> {
  // The engine makes its file and tables; here they must be there.
  await requireTable(file, 'headrace_lock', 'locks', 'sqliteLocks({ file })')
  const { sqliteLocks } = await import('../drivers/sqlite/lock.ts')
  return sqliteLocks({ file })
}
