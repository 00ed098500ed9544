/**
 * Set-up of a clone: the right Node, the packages of the lock file, the build.
 *
 * Runs before `npm start`, `npm test`, `npm run bench` and `npm run check`, so
 * it may use nothing but Node itself, and it parses on versions of Node that
 * are too old to run Headrace. What must hold:
 *
 * - Nothing to do costs a few milliseconds and prints nothing.
 * - Two set-ups of one clone at the same time do the work once: whoever comes
 *   second waits for the lock and then finds it done.
 * - A set-up that is killed half-way leaves nothing that looks finished: npm
 *   writes its record of what is installed last, and the build appears under
 *   its name by one rename, with its stamp inside.
 */
import { spawn } from 'node:child_process'
import { createHash } from 'node:crypto'
import fs from 'node:fs'
import path from 'node:path'
import { fileURLToPath, pathToFileURL } from 'node:url'
import { withSetupLock } from './setup-lock.mjs'

export const root = path.dirname(path.dirname(fileURLToPath(import.meta.url)))

const nodeMin = [20, 20, 0]
const installMsMax = 15 * 60_000
const buildMsMax = 5 * 60_000
/** How much of a child's output is kept for the message when it fails. */
const outputBytesMax = 64 * 1024

/** A failure that is told to the reader in its own words, without a stack. */
class SetupError extends Error {}

/**
 * Brings the clone into a state that runs. `build` is 'changed' (build when the
 * sources changed), 'always' or 'never'. Throws a SetupError that says what to do.
 */
async function setUp({ build = 'changed' } = {}) {
  checkNode(process.versions.node)
  if (!isInstalled()) await withSetupLock(root, say, install)
  if (build === 'changed') await ensureBuilt()
  if (build === 'always') await withSetupLock(root, say, buildNow)
}

/** Builds dist when the sources have changed since it was built. The packages must be there. */
export async function ensureBuilt() {
  if (!isBuilt()) await withSetupLock(root, say, buildIfNeeded)
}

function checkNode(version) {
  const parts = version.split('.').map(Number)
  const difference = nodeMin.map((part, index) => parts[index] - part).find((each) => each !== 0)
  if (difference !== undefined && difference < 0) {
    throw new SetupError(
      `Headrace needs Node ${nodeMin.join('.')} or newer, and this is Node ${version}. Install a current Node (nodejs.org), then run the same command again.`,
    )
  }
}

/**
 * True when node_modules holds what package-lock.json names. A stamp with the
 * hash of the lock file answers at once; without it, what npm itself recorded
 * is compared, so that `npm install` by hand needs no second installation.
 */
function isInstalled() {
  const record = readOrNull(path.join(root, 'node_modules/.package-lock.json'))
  const lock = readOrNull(path.join(root, 'package-lock.json'))
  if (record === null) return false
  if (lock === null) throw new SetupError('package-lock.json is missing: restore it with git, or run npm install once.')
  const hash = sha256(lock)
  if (readOrNull(installStamp()) === hash) return true
  if (!holdsAll(JSON.parse(lock).packages, JSON.parse(record).packages)) return false
  stampInstall(hash)
  return true
}

/** Whether every package of the lock file is installed in its version; optional ones of other platforms may be absent. */
function holdsAll(wanted, installed) {
  return Object.keys(wanted).every((name) => {
    if (name === '') return true
    const there = installed[name]
    if (there === undefined) return wanted[name].optional === true || wanted[name].devOptional === true
    return there.version === wanted[name].version && there.integrity === wanted[name].integrity
  })
}

async function install(childStarted) {
  if (isInstalled()) return
  const npm = npmCommand()
  const started = Date.now()
  const args = [...npm.args, 'ci', '--include=dev', '--no-audit', '--no-fund', '--loglevel=error']
  const { code, output } = await run(npm.command, args, {
    shell: npm.shell,
    msMax: installMsMax,
    childStarted,
    line: 'Installing packages (npm ci) …',
  })
  if (code !== 0) {
    throw new SetupError(
      `npm ci failed (${code}). Its output:\n\n${withoutUsage(output)}\n\nCheck that the npm registry is reachable and that the disk has space, then run the same command again.`,
    )
  }
  stampInstall(sha256(fs.readFileSync(path.join(root, 'package-lock.json'), 'utf8')))
  say(`Installed in ${seconds(started)}.`)
}

/** npm follows some errors with a hundred lines of its own usage. */
function withoutUsage(output) {
  const lines = output.split('\n').filter((line) => line.trim() !== 'npm error')
  const usage = lines.indexOf('npm error Clean install a project')
  const told = usage === -1 ? lines : [...lines.slice(0, usage), ...lines.filter((line) => line.startsWith('npm error A complete log'))]
  return told.join('\n').trim()
}

const installStamp = () => path.join(root, 'node_modules/.cache/headrace/installed')

function stampInstall(hash) {
  fs.mkdirSync(path.dirname(installStamp()), { recursive: true })
  const temporary = `${installStamp()}.${process.pid}`
  fs.writeFileSync(temporary, hash)
  fs.renameSync(temporary, installStamp())
}

/** npm as it was called, or the one on the PATH; on Windows that one is a script that needs a shell. */
function npmCommand() {
  const caller = process.env.npm_execpath
  if (caller !== undefined && path.basename(caller) === 'npm-cli.js') return { command: process.execPath, args: [caller], shell: false }
  return { command: 'npm', args: [], shell: process.platform === 'win32' }
}

const buildStampName = '.built-from'

function isBuilt() {
  return readOrNull(path.join(root, 'dist', buildStampName)) === sourceHash()
}

async function buildIfNeeded(childStarted) {
  if (!isBuilt()) await buildNow(childStarted)
}

/** Compiles into dist.next and puts it in the place of dist, so that a build that fails or is killed changes nothing. */
async function buildNow(childStarted) {
  const started = Date.now()
  const next = path.join(root, 'dist.next')
  const old = path.join(root, 'dist.old')
  const dist = path.join(root, 'dist')
  remove(next)
  const hash = sourceHash()
  const compiler = path.join(root, 'node_modules/typescript/bin/tsc')
  const args = [compiler, '-p', 'tsconfig.build.json', '--outDir', next, '--pretty', 'false']
  const { code, output } = await run(process.execPath, args, { shell: false, msMax: buildMsMax, childStarted, line: 'Building …' })
  if (code !== 0) {
    remove(next)
    throw new SetupError(`The build failed (tsc ${code}):\n\n${output.trim()}\n`)
  }
  for (const file of sourceFiles('src')) {
    if (file.endsWith('.ts')) continue
    const target = path.join(next, path.relative('src', file))
    fs.mkdirSync(path.dirname(target), { recursive: true })
    fs.copyFileSync(path.join(root, file), target)
  }
  const main = path.join(next, 'cli/main.js')
  if (fs.existsSync(main)) fs.chmodSync(main, 0o755)
  fs.writeFileSync(path.join(next, buildStampName), hash)
  remove(old)
  if (fs.existsSync(dist)) fs.renameSync(dist, old)
  fs.renameSync(next, dist)
  remove(old)
  say(`Built in ${seconds(started)}.`)
}

/** Changes when anything changes that the build reads: sources but no tests, the compiler and its settings. */
function sourceHash() {
  const hash = createHash('sha256')
  const compiler = JSON.parse(fs.readFileSync(path.join(root, 'node_modules/typescript/package.json'), 'utf8')).version
  hash.update(compiler)
  for (const file of ['tsconfig.json', 'tsconfig.build.json', ...sourceFiles('src')]) {
    hash.update(`\0${file}\0`)
    hash.update(fs.readFileSync(path.join(root, file)))
  }
  return hash.digest('hex')
}

function sourceFiles(folder) {
  const files = []
  for (const entry of fs.readdirSync(path.join(root, folder), { withFileTypes: true })) {
    const name = `${folder}/${entry.name}`
    if (entry.isDirectory()) files.push(...sourceFiles(name))
    else if (!/\.(test|test-d|bench)\.ts$/.test(entry.name)) files.push(name)
  }
  return files.sort()
}

/** Runs a command to its end. A signal that ends this process is passed on first, so that no child is left behind. */
function run(command, args, { shell, msMax, childStarted, line }) {
  return new Promise((resolve, reject) => {
    const child = spawn(command, args, { cwd: root, shell, stdio: ['ignore', 'pipe', 'pipe'] })
    let output = ''
    const keep = (chunk) => {
      output = (output + chunk).slice(-outputBytesMax)
    }
    child.stdout.setEncoding('utf8').on('data', keep)
    child.stderr.setEncoding('utf8').on('data', keep)
    const timer = setTimeout(() => {
      output += `\nstopped after ${msMax / 1000} s`
      child.kill('SIGKILL')
    }, msMax)
    let stoppedBy = null
    const stop = (signal) => {
      stoppedBy = signal
      child.kill(signal)
    }
    const signals = ['SIGINT', 'SIGTERM', 'SIGHUP']
    for (const signal of signals) process.on(signal, stop)
    const settled = () => {
      clearTimeout(timer)
      for (const signal of signals) process.off(signal, stop)
    }
    if (child.pid !== undefined) childStarted(child.pid)
    say(line)
    child.on('error', (error) => {
      settled()
      reject(new SetupError(`${command} could not be started: ${error.message}`))
    })
    child.on('close', (code, signal) => {
      settled()
      if (stoppedBy !== null) reject(new SetupInterrupted(stoppedBy))
      else resolve({ code: code === null ? signal : code, output })
    })
  })
}

class SetupInterrupted extends Error {
  constructor(signal) {
    super(`stopped by ${signal}`)
    this.signal = signal
  }
}

function readOrNull(file) {
  try {
    return fs.readFileSync(file, 'utf8')
  } catch (error) {
    if (error.code === 'ENOENT' || error.code === 'ENOTDIR') return null
    throw error
  }
}

const remove = (folder) => fs.rmSync(folder, { recursive: true, force: true })
const sha256 = (text) => createHash('sha256').update(text).digest('hex')
const seconds = (since) => `${((Date.now() - since) / 1000).toFixed(1)} s`

/** To standard error: standard output belongs to the program that is set up for. */
function say(line) {
  process.stderr.write(`headrace: ${line}\n`)
}

/** Sets up, then goes on; ends the process with a plain message when set-up fails. */
export async function setUpOrExit(options) {
  try {
    await setUp(options)
  } catch (error) {
    if (error instanceof SetupInterrupted) process.kill(process.pid, error.signal)
    else if (error instanceof SetupError) say(error.message)
    else throw error
    process.exit(1)
  }
}

const isMain = process.argv[1] !== undefined && import.meta.url === pathToFileURL(fs.realpathSync(process.argv[1])).href
if (isMain)
  await setUpOrExit({ build: process.argv.includes('--no-build') ? 'never' : process.argv.includes('--rebuild') ? 'always' : 'changed' })
