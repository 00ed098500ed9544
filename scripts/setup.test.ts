/**
 * The set-up of a fresh clone, tried on a small one: the real scripts, the real
 * npm and the real compiler, and a few source files. It needs no network: the
 * only package of the small clone is a doorway to the compiler that is here.
 */
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import fs from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest'

vi.setConfig({ testTimeout: 120_000, hookTimeout: 120_000 })

const root = fileURLToPath(new URL('..', import.meta.url))
let clone: string
const running = new Set<ChildProcess>()

beforeEach(() => {
  clone = fs.mkdtempSync(path.join(tmpdir(), 'headrace-clone-'))
  for (const file of ['setup.mjs', 'setup-lock.mjs', 'start.mjs']) {
    write(`scripts/${file}`, fs.readFileSync(path.join(root, 'scripts', file), 'utf8'))
  }
  for (const file of ['tsconfig.json', 'tsconfig.build.json']) {
    write(file, fs.readFileSync(path.join(root, file), 'utf8').replace('"types": ["node"]', '"types": []'))
  }
  write('vendor/typescript/bin/tsc', `require(${JSON.stringify(path.join(root, 'node_modules/typescript/lib/tsc.js'))})`)
  lockFile({ clone: '1.0.0', compiler: '1.0.0' })
  write(
    'src/cli/main.ts',
    `declare const process: any, console: any, setInterval: any
    import { word } from '../word.ts'
    if (process.argv.includes('--fail')) process.exitCode = 3
    if (process.argv.includes('--stay')) {
      process.on('SIGTERM', () => process.exit(7))
      setInterval(() => {}, 1_000)
    }
    console.log(word, process.argv.slice(2).join(' '))`,
  )
  write('src/word.ts', "export const word: string = 'hello'\n")
  write('src/query.sql', 'select 1\n')
  write('src/word.test.ts', 'this is no code of the package')
})

afterEach(async () => {
  for (const child of running) {
    child.kill('SIGKILL')
    await once(child, 'close')
  }
  fs.rmSync(clone, { recursive: true, force: true })
})

function write(file: string, text: string): void {
  fs.mkdirSync(path.dirname(path.join(clone, file)), { recursive: true })
  fs.writeFileSync(path.join(clone, file), text)
}

const read = (file: string): string => fs.readFileSync(path.join(clone, file), 'utf8')
const exists = (file: string): boolean => fs.existsSync(path.join(clone, file))

/** package.json and package-lock.json of the clone and its one package. */
function lockFile(version: { readonly clone: string; readonly compiler: string }): void {
  const own = { name: 'clone', version: version.clone, devDependencies: { typescript: 'file:vendor/typescript' } }
  const packages = {
    '': own,
    'node_modules/typescript': { resolved: 'vendor/typescript', link: true },
    'vendor/typescript': { version: version.compiler, dev: true },
  }
  write('package.json', JSON.stringify({ ...own, type: 'module' }))
  write('package-lock.json', JSON.stringify({ name: 'clone', version: version.clone, lockfileVersion: 3, requires: true, packages }))
  write('vendor/typescript/package.json', JSON.stringify({ name: 'typescript', version: version.compiler }))
}

interface Ended {
  readonly code: number | null
  readonly signal: string | null
  readonly out: string
  readonly err: string
}

function start(args: readonly string[]): { readonly child: ChildProcess; readonly ended: Promise<Ended> } {
  const environment = Object.fromEntries(Object.entries(process.env).filter(([name]) => !/^(npm_|node_|vitest)/i.test(name)))
  const child = spawn(process.execPath, [...args], { cwd: clone, env: environment, stdio: ['ignore', 'pipe', 'pipe'] })
  running.add(child)
  let out = ''
  let err = ''
  child.stdout.on('data', (chunk) => {
    out += chunk
  })
  child.stderr.on('data', (chunk) => {
    err += chunk
  })
  const ended = once(child, 'close').then(([code, signal]): Ended => {
    running.delete(child)
    return { code, signal, out, err }
  })
  return { child, ended }
}

const run = (...args: string[]): Promise<Ended> => start(args).ended

async function said(child: ChildProcess, text: string): Promise<void> {
  let seen = ''
  for await (const [chunk] of onData(child)) {
    seen += String(chunk)
    if (seen.includes(text)) return
  }
  throw new Error(`the process ended without saying ${text}: ${seen}`)
}

async function* onData(child: ChildProcess): AsyncGenerator<readonly [unknown]> {
  while (child.exitCode === null && child.signalCode === null) {
    const next = await Promise.race([
      once(child.stdout as NodeJS.ReadableStream, 'data'),
      once(child.stderr as NodeJS.ReadableStream, 'data'),
      once(child, 'close').then(() => null),
    ])
    if (next === null) return
    yield [next[0]]
  }
}

describe('a fresh clone', () => {
  test('is installed and built once, then costs nothing and says nothing', async () => {
    const first = await run('scripts/setup.mjs')
    expect(first).toMatchObject({ code: 0, out: '' })
    expect(first.err).toMatch(/Installing packages[\s\S]*Installed[\s\S]*Building[\s\S]*Built/)
    expect(read('dist/word.js')).toContain('hello')
    expect(read('dist/query.sql')).toBe('select 1\n')
    expect(exists('dist/word.test.js')).toBe(false)
    expect(exists('dist.next')).toBe(false)

    expect(await run('scripts/setup.mjs')).toMatchObject({ code: 0, out: '', err: '' })
  })

  test('set up by three at once is installed once and built once', async () => {
    const all = await Promise.all([run('scripts/setup.mjs'), run('scripts/setup.mjs'), run('scripts/setup.mjs')])
    expect(all.map((each) => each.code)).toEqual([0, 0, 0])
    const told = all.map((each) => each.err).join('')
    expect(told.match(/Installing packages/g)).toHaveLength(1)
    expect(told.match(/Building/g)).toHaveLength(1)
    expect(exists('.cache/setup.lock')).toBe(false)
  })

  test('is set up although an earlier set-up was killed', async () => {
    const { child, ended } = start(['scripts/setup.mjs'])
    await said(child, 'Installing packages')
    child.kill('SIGKILL')
    expect((await ended).signal).toBe('SIGKILL')
    expect(exists('.cache/setup.lock')).toBe(true)

    expect(await run('scripts/setup.mjs')).toMatchObject({ code: 0 })
    expect(read('dist/word.js')).toContain('hello')
  })

  test('stopped by SIGTERM leaves no lock', async () => {
    const { child, ended } = start(['scripts/setup.mjs'])
    await said(child, 'Installing packages')
    child.kill('SIGTERM')
    expect((await ended).signal).toBe('SIGTERM')
    expect(exists('.cache/setup.lock')).toBe(false)
  })
})

describe('later', () => {
  beforeEach(async () => {
    expect(await run('scripts/setup.mjs')).toMatchObject({ code: 0 })
  })

  test('a changed source is built, and what is gone from the source is gone from the build', async () => {
    write('src/word.ts', "export const word: string = 'goodbye'\n")
    fs.rmSync(path.join(clone, 'src/query.sql'))
    expect((await run('scripts/setup.mjs')).err).toMatch(/^headrace: Building[\s\S]*Built/)
    expect(read('dist/word.js')).toContain('goodbye')
    expect(exists('dist/query.sql')).toBe(false)
  })

  test('a changed source is built once, also by three at once', async () => {
    write('src/word.ts', "export const word: string = 'goodbye'\n")
    const all = await Promise.all([run('scripts/setup.mjs'), run('scripts/setup.mjs'), run('scripts/setup.mjs')])
    expect(all.map((each) => each.code)).toEqual([0, 0, 0])
    expect(all.flatMap((each) => each.err.match(/Building/g) ?? [])).toHaveLength(1)
  })

  test('a changed test is not built', async () => {
    write('src/word.test.ts', 'still no code of the package')
    expect(await run('scripts/setup.mjs')).toMatchObject({ code: 0, err: '' })
  })

  test('a build that fails says why, and leaves the old build', async () => {
    write('src/word.ts', 'export const word: string = 5\n')
    const { code, err } = await run('scripts/setup.mjs')
    expect(code).toBe(1)
    expect(err).toContain("src/word.ts(1,14): error TS2322: Type 'number' is not assignable to type 'string'.")
    expect(read('dist/word.js')).toContain('hello')
    expect(exists('dist.next')).toBe(false)
  })

  test('a lock file that names other packages is installed', async () => {
    lockFile({ clone: '1.0.1', compiler: '1.0.0' })
    expect((await run('scripts/setup.mjs')).err, 'only the version of the clone itself has changed').toBe('')
    lockFile({ clone: '1.0.1', compiler: '1.0.1' })
    expect((await run('scripts/setup.mjs')).err).toMatch(/Installing packages[\s\S]*Building/)
  })

  test('an installation that npm did not finish is made again', async () => {
    fs.rmSync(path.join(clone, 'node_modules/.package-lock.json'))
    expect((await run('scripts/setup.mjs')).err).toMatch(/Installing packages/)
  })

  test('an installation that fails says so, with the words of npm', async () => {
    fs.rmSync(path.join(clone, 'node_modules'), { recursive: true })
    write('package.json', JSON.stringify({ name: 'clone', dependencies: { absent: 'file:vendor/absent' } }))
    const { code, err } = await run('scripts/setup.mjs')
    expect(code).toBe(1)
    expect(err).toMatch(/npm ci failed[\s\S]*npm error[\s\S]*run the same command again/)
  })
})

test('a Node that is too old is refused by name, before anything is touched', async () => {
  const older = 'data:text/javascript,Object.defineProperty(process.versions,"node",{value:"20.19.9"})'
  const { code, err } = await run('--import', older, 'scripts/setup.mjs')
  expect(code).toBe(1)
  expect(err).toBe(
    'headrace: Headrace needs Node 20.20.0 or newer, and this is Node 20.19.9. Install a current Node (nodejs.org), then run the same command again.\n',
  )
  expect(exists('node_modules')).toBe(false)
})

describe('npm start', () => {
  test('becomes the demo: arguments, standard output and exit code are its own', async () => {
    expect(await run('scripts/start.mjs', '--kill', '3', '--fail')).toMatchObject({
      code: 3,
      out: 'hello demo flash-sale --kill 3 --fail\n',
    })
  })

  test('hands signals to the demo', async () => {
    const { child, ended } = start(['scripts/start.mjs', '--stay'])
    await said(child, 'demo flash-sale')
    child.kill('SIGTERM')
    expect(await ended).toMatchObject({ code: 7, signal: null })
  })
})
