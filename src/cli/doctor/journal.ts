/** Checks of a data directory with data in it: does a node own it, is the journal whole. */
import { existsSync, readdirSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { bytes, count, counted } from '../terminal.ts'
import { type Finding, finding } from './finding.ts'

export interface Contents {
  /** Databases in the directory, the journal first. */
  readonly files: readonly string[]
  /** When one of them was last written, in milliseconds since 1970. */
  readonly newest: number | null
}

export function contentsOf(dataDir: string): Contents {
  if (!existsSync(dataDir)) return { files: [], newest: null }
  const names = readdirSync(dataDir).filter((name) => name.endsWith('.sqlite'))
  const files = [...names.filter((name) => name === 'journal.sqlite'), ...names.filter((name) => name !== 'journal.sqlite').sort()]
  const times = readdirSync(dataDir).map((name) => statSync(join(dataDir, name), { throwIfNoEntry: false })?.mtimeMs ?? 0)
  return { files, newest: times.length === 0 ? null : Math.max(...times) }
}

/** Whether a node owns the directory: it holds a lock on owner.lock, which the kernel drops with the process. */
export async function checkOwner(dataDir: string): Promise<Finding> {
  const lock = join(dataDir, 'owner.lock')
  if (!existsSync(lock)) return finding('owner', 'ok', 'no node runs there')
  const { DatabaseSync } = await import('@photostructure/sqlite')
  const { ownerOf } = await import('../../drivers/sqlite/owner.ts')
  const database = new DatabaseSync(lock)
  try {
    database.exec('pragma busy_timeout = 0')
    database.prepare('select count(*) from sqlite_master').get()
    return finding('owner', 'ok', 'no node runs there')
  } catch {
    const owner = ownerOf(dataDir)
    return finding(
      'owner',
      'info',
      owner === null ? 'a node runs there' : `a node runs there: process ${owner.pid} on ${owner.host}, since ${owner.startedAt}`,
    )
  } finally {
    database.close()
  }
}

/** Examines every database of a directory that nobody uses. */
export async function checkDatabases(dataDir: string, { files }: Contents, inUse: boolean): Promise<Finding[]> {
  if (files.length === 0) return [finding('journal', 'ok', 'none yet')]
  if (inUse) return [finding('journal', 'info', 'not examined while the node runs; stop it first')]
  const findings: Finding[] = []
  for (const file of files) findings.push(await checkDatabase(dataDir, file))
  return findings
}

async function checkDatabase(dataDir: string, file: string): Promise<Finding> {
  const path = join(dataDir, file)
  const name = file === 'journal.sqlite' ? 'journal' : `database ${file}`
  const repair =
    file === 'journal.sqlite'
      ? 'Restore the whole data directory from a backup. Do not delete the journal alone: it holds what was acknowledged.'
      : 'Restore the whole data directory from a backup.'
  try {
    const { examineWal, isDamaged } = await import('../../drivers/sqlite/wal.ts')
    const wal = examineWal(`${path}-wal`)
    if (isDamaged(wal))
      return finding(
        name,
        'error',
        `its log is damaged ${wal.badFrame < 0 ? 'in its header' : `at frame ${wal.badFrame + 1}`}, with ${counted(wal.commitsBehind, 'commit')} behind it`,
        repair,
      )
    const { DatabaseSync } = await import('@photostructure/sqlite')
    const database = new DatabaseSync(path, { readOnly: true })
    try {
      const [first] = database.prepare('pragma integrity_check(1)').all() as { integrity_check: string }[]
      if (first?.integrity_check !== 'ok') return finding(name, 'error', `damaged: ${first?.integrity_check.split('\n')[0]}`, repair)
      const { size } = statSync(path)
      const more = file === 'journal.sqlite' ? journalText(database) : ''
      return finding(name, 'ok', `whole, ${bytes(size)}${more}`)
    } finally {
      database.close()
    }
  } catch (error) {
    return finding(name, 'error', error instanceof Error ? error.message : String(error), repair)
  }
}

function journalText(database: { prepare(text: string): { get(): unknown } }): string {
  const read = (text: string): number => Number((database.prepare(text).get() as { n: unknown }).n)
  const waiting = read('select count(*) as n from entry')
  const outcomes = read('select count(*) as n from outcome')
  const dead = read('select count(*) as n from dead')
  const partitions = read("select value as n from meta where name = 'partitions'")
  return `; ${counted(partitions, 'partition')}, ${counted(waiting, 'waiting command')}, ${counted(outcomes, 'outcome')}, ${count(dead)} dead`
}
