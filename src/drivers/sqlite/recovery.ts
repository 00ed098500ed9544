/**
 * Opens a data directory: takes it, looks for damage, and brings every file to
 * where the journal says it is, before anything else may write.
 *
 * What each file's marker (the batch in `headrace_partition`) can say:
 * - as far as the journal: nothing to do;
 * - behind it: the redo from there on is applied, in order of batch;
 * - behind the redo that is left, or missing though the journal knows the file:
 *   the file is older than the journal or another one: refused;
 * - missing, in a file of the data directory that has one of another journal:
 *   the journal was deleted or replaced: refused;
 * - ahead of the journal: the journal lost commits: refused.
 */
import { randomUUID } from 'node:crypto'
import { accessSync, constants, mkdirSync, statfsSync, statSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { HeadraceError } from '../../contracts/errors.ts'
import { crashPoint } from '../../std/crash-point.ts'
import type { EngineOptions, Opened } from './calls.ts'
import { Engine } from './engine.ts'
import { sqliteError } from './errors.ts'
import { Journal } from './journal.ts'
import { OwnerLock } from './owner.ts'
import { Participant } from './participant.ts'
import { examineWal, isDamaged } from './wal.ts'

const journalFile = 'journal.sqlite'
/** Less than this, in bytes, and an index of a log may not fit. */
const roomBytesMin = 256 * 1024

/** Throws 'data-unreadable', 'data-in-use', 'data-corrupt', 'data-diverged', 'data-partitions', 'data-version', 'queue-differs', 'table-without-key', 'disk-full', 'sql-failed'. */
export function openEngine(options: EngineOptions): { readonly engine: Engine; readonly opened: Opened } {
  makeDirectory(options.dataDir)
  const lock = new OwnerLock(options.dataDir)
  const participants = new Map<string, Participant>()
  let journal: Journal | null = null
  try {
    const path = join(options.dataDir, journalFile)
    refuseDamagedLog(path)
    journal = new Journal({ path, partitions: options.partitions, deployment: randomUUID(), queue: options.queue })
    for (const database of [...options.databases].sort((a, b) => (a.name < b.name ? -1 : 1))) {
      mkdirSync(dirname(database.path), { recursive: true })
      participants.set(database.name, new Participant(database, `${journal.deployment}/${database.name}`))
    }
    let redone = 0
    let first = true
    for (const participant of participants.values()) {
      if (!first) crashPoint('redo.between-files')
      first = false
      try {
        redone += recoverFile(options.dataDir, journal, participant)
      } catch (error) {
        throw sqliteError('journal', error)
      }
    }
    if ([...participants.values()].every((participant) => participant.checkpoint())) journal.redo.drop(journal.lastBatch)
    const opened: Opened = {
      firstPosition: journal.firstPosition,
      partitions: journal.partitions,
      epoch: journal.epoch,
      identity: journal.deployment,
      queued: journal.counts().queued,
      redone,
    }
    return { engine: new Engine(journal, participants, () => lock.release()), opened }
  } catch (error) {
    for (const participant of participants.values()) participant.close()
    journal?.close()
    lock.release()
    throw withoutRoom(options.dataDir, error)
  }
}

/** SQLite says "I/O error" when there is no room for the index of a log, which it makes at the start. */
function withoutRoom(dataDir: string, error: unknown): unknown {
  if (!HeadraceError.is(error) || error.code !== 'storage-failed') return error
  const { bavail, bsize } = statfsSync(dataDir)
  if (bavail * bsize >= roomBytesMin) return error
  return new HeadraceError(
    'disk-full',
    `There is no room left in the data directory ${dataDir}: ${error.message}. Free some space and start again; nothing was changed.`,
    { details: { dataDir }, cause: error },
  )
}

function recoverFile(dataDir: string, journal: Journal, participant: Participant): number {
  const { name, path } = participant
  const known = journal.redo.file(name)
  const marker = participant.marker()
  if (known === null) {
    if (marker === null && dirname(path) === dataDir && participant.hasOthers())
      throw new HeadraceError(
        'data-diverged',
        `SQLite '${name}' (${path}) was written under another journal than the one here: journal.sqlite was deleted or replaced, or the file comes from elsewhere. Restore the whole data directory from one backup; nothing was changed. To start anew on this file, empty its table headrace_partition.`,
        { details: { database: name } },
      )
    participant.makeTables()
    // New to this journal: it starts from here, on disk before the journal relies on it.
    participant.adopt(journal.epoch, journal.lastBatch)
    participant.checkpoint()
    journal.redo.registerFile(name, path, participant.marker() ?? journal.lastBatch)
    return 0
  }
  if (marker === null) {
    throw new HeadraceError(
      'data-diverged',
      `SQLite '${name}' (${path}) has never been written by this journal, though the journal knows it: the file was replaced or deleted. Restore it, or start with a new data directory.`,
      { details: { database: name } },
    )
  }
  if (marker > journal.lastBatch) {
    throw new HeadraceError(
      'data-diverged',
      `SQLite '${name}' (${path}) has batch ${marker}, but the journal ends at batch ${journal.lastBatch}: the journal has lost commits. Restore the whole data directory from one backup; nothing was changed.`,
      { details: { database: name } },
    )
  }
  const missing = journal.redo.after(name, marker)
  if (marker < known.dropped) {
    throw new HeadraceError(
      'data-diverged',
      `SQLite '${name}' (${path}) is older than the journal: it has batch ${marker}, and the redo up to batch ${known.dropped} is gone. Restore the whole data directory from one backup; nothing was changed.`,
      { details: { database: name } },
    )
  }
  participant.makeTables()
  crashPoint('redo.before-apply')
  for (const { changes, batch } of missing) participant.redo(changes, batch)
  crashPoint('redo.after-apply')
  participant.adopt(journal.epoch, marker)
  journal.redo.registerFile(name, path, known.dropped)
  return missing.length
}

function refuseDamagedLog(path: string): void {
  const report = examineWal(`${path}-wal`)
  if (isDamaged(report)) {
    throw new HeadraceError(
      'data-corrupt',
      `The journal's log ${path}-wal is damaged: ${report.badFrame < 0 ? 'its header' : `frame ${report.badFrame + 1}`} is wrong, with ${report.commitsBehind} commits behind it. Restore the data directory from a backup; nothing was changed.`,
      { details: { path: `${path}-wal`, ...report } },
    )
  }
}

function makeDirectory(dataDir: string): void {
  try {
    mkdirSync(dataDir, { recursive: true })
    if (!statSync(dataDir).isDirectory()) throw new Error('it is not a directory')
    accessSync(dataDir, constants.R_OK | constants.W_OK | constants.X_OK)
  } catch (error) {
    const why = error instanceof Error ? error.message : String(error)
    throw new HeadraceError(
      'data-unreadable',
      `The data directory ${dataDir} cannot be used: ${why}. Correct its owner and mode, or name another directory.`,
      { cause: error },
    )
  }
}
