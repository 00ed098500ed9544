/**
 * One set-up at a time in a clone, also between processes.
 *
 * The lock is a file that is created exclusively, names its holder and the
 * child that works for it, and is touched every second. It is stale when both
 * are dead, or when nobody has touched it for `staleMs` (a process id can be
 * given anew after a restart). A stale lock is renamed away before it is
 * dropped: of two processes that find it stale, one renames it, and the other
 * meets either no file or the new lock of the first, which it puts back.
 */
import { randomBytes } from 'node:crypto'
import fs from 'node:fs'
import { hostname } from 'node:os'
import path from 'node:path'

const touchMs = 1_000
const staleMs = 120_000
const retryMs = 100
const waitMsMax = 20 * 60_000

/** Runs `work` while nobody else sets this clone up. `work` is given a function that it tells the id of its child. */
export async function withSetupLock(root, say, work) {
  const file = path.join(root, '.cache/setup.lock')
  fs.mkdirSync(path.dirname(file), { recursive: true })
  const holder = { pid: process.pid, host: hostname(), id: randomBytes(8).toString('hex') }
  await acquire(file, holder, say)
  const touching = setInterval(() => touch(file), touchMs)
  try {
    return await work((child) => fs.writeFileSync(file, JSON.stringify({ ...holder, child })))
  } finally {
    clearInterval(touching)
    const text = read(file)
    if (text?.includes(holder.id)) fs.rmSync(file, { force: true })
  }
}

async function acquire(file, wanted, say) {
  const deadline = Date.now() + waitMsMax
  let told = false
  while (!create(file, JSON.stringify(wanted))) {
    const holder = inspect(file)
    if (holder === null) continue
    if (holder.stale) {
      dropStale(file, holder)
      continue
    }
    if (!told) say(`Waiting for another set-up of this folder${holder.pid === null ? '' : ` (process ${holder.pid})`} …`)
    told = true
    if (Date.now() > deadline)
      throw new Error(`Another set-up has held ${file} for ${waitMsMax / 60_000} minutes. End it, or delete the file.`)
    await new Promise((resolve) => setTimeout(resolve, retryMs))
  }
}

function create(file, token) {
  try {
    fs.writeFileSync(file, token, { flag: 'wx' })
    return true
  } catch (error) {
    if (error.code === 'EEXIST') return false
    throw error
  }
}

/** Who holds the lock; null when it is gone. A file that cannot be read yet is judged by its age alone. */
function inspect(file) {
  let stat
  try {
    stat = fs.statSync(file)
  } catch (error) {
    if (error.code === 'ENOENT') return null
    throw error
  }
  const text = read(file)
  if (text === null) return null
  let owner = null
  try {
    owner = JSON.parse(text)
  } catch {
    // Its holder has created it and not written it yet.
  }
  const dead = owner !== null && owner.host === hostname() && !isAlive(owner.pid) && !(owner.child > 0 && isAlive(owner.child))
  return { text, pid: owner === null ? null : owner.pid, stale: dead || Date.now() - stat.mtimeMs > staleMs }
}

function isAlive(pid) {
  try {
    process.kill(pid, 0)
    return true
  } catch (error) {
    return error.code === 'EPERM'
  }
}

function dropStale(file, holder) {
  const aside = `${file}.${process.pid}`
  try {
    fs.renameSync(file, aside)
    if (read(aside) !== holder.text) fs.linkSync(aside, file)
    fs.rmSync(aside, { force: true })
  } catch (error) {
    if (error.code !== 'ENOENT' && error.code !== 'EEXIST') throw error
  }
}

function touch(file) {
  try {
    const now = new Date()
    fs.utimesSync(file, now, now)
  } catch {
    // The folder is gone; the work will say so.
  }
}

function read(file) {
  try {
    return fs.readFileSync(file, 'utf8')
  } catch (error) {
    if (error.code === 'ENOENT') return null
    throw error
  }
}
