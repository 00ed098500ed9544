/** Runs the real command line, as it is built, for the tests of processes. */
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'

const main = fileURLToPath(new URL('../../dist/cli/main.js', import.meta.url))
export const flashSale = fileURLToPath(new URL('../../examples/flash-sale/app.ts', import.meta.url))
export const social = fileURLToPath(new URL('../../examples/social/app.ts', import.meta.url))

/** Longest time for one run, in milliseconds. */
const runMsMax = 100_000

export interface Ended {
  readonly code: number | null
  readonly signal: NodeJS.Signals | null
  readonly stdout: string
  readonly stderr: string
}

interface RunOptions {
  readonly input?: string
  readonly environment?: Readonly<Record<string, string>>
  readonly cwd?: string
}

export interface Running {
  readonly child: ChildProcess
  readonly ended: Promise<Ended>
  /** Resolves with the first line of standard output that matches; rejects when the process ends before. */
  line(pattern: RegExp): Promise<string>
}

/** Starts `headrace …` and does not wait for its end. */
export function spawnHeadrace(args: readonly string[], { input, environment = {}, cwd = tmpdir() }: RunOptions = {}, ipc = false): Running {
  const child = spawn(process.execPath, [main, ...args], {
    cwd,
    env: { ...process.env, NO_COLOR: undefined, ...environment },
    stdio: ['pipe', 'pipe', 'pipe', ...(ipc ? (['ipc'] as const) : [])],
    timeout: runMsMax,
    killSignal: 'SIGKILL',
  })
  let stdout = ''
  let stderr = ''
  const waiting = new Set<() => void>()
  child.stdout?.setEncoding('utf8').on('data', (text: string) => {
    stdout += text
    for (const look of waiting) look()
  })
  child.stderr?.setEncoding('utf8').on('data', (text: string) => {
    stderr += text
  })
  child.stdin?.end(input ?? '')
  // Not 'close', which does not come when the channel was closed from this side.
  const ended = Promise.all([once(child, 'exit'), streamEnd(child.stdout), streamEnd(child.stderr)]).then(
    ([[code, signal]]): Ended => ({ code: code as number | null, signal: signal as NodeJS.Signals | null, stdout, stderr }),
  )
  return {
    child,
    ended,
    line: (pattern) =>
      new Promise((resolve, reject) => {
        const look = (): void => {
          const found = stdout
            .split('\n')
            .slice(0, -1)
            .find((line) => pattern.test(line))
          if (found === undefined) return
          waiting.delete(look)
          resolve(found)
        }
        waiting.add(look)
        look()
        void ended.then(({ code }) => reject(new Error(`headrace ended with ${code} before it wrote ${pattern}:\n${stdout}\n${stderr}`)))
      }),
  }
}

async function streamEnd(stream: NodeJS.ReadableStream | null): Promise<void> {
  if (stream !== null) await once(stream, 'close')
}

/** Runs `headrace …` to its end. */
export function headrace(args: readonly string[], options: RunOptions = {}): Promise<Ended> {
  return spawnHeadrace(args, options).ended
}

/** The only document on standard output. Fails when anything else stands there. */
export function onlyDocument<T = Record<string, unknown>>({ stdout, stderr }: Ended): T {
  const lines = stdout.trimEnd().split('\n')
  if (lines.length !== 1) throw new Error(`expected one line of JSON:\n${stdout}\n${stderr}`)
  return JSON.parse(lines[0] as string) as T
}

export interface Node extends Running {
  readonly url: string
  readonly ready: Readonly<Record<string, unknown>>
  stop(signal?: NodeJS.Signals): Promise<Ended>
}

/** Starts a node on a free port and waits until it takes commands. */
export async function startNode(
  app: string,
  dataDir: string,
  more: readonly string[] = [],
  options: RunOptions = {},
  ipc = false,
): Promise<Node> {
  const running = spawnHeadrace(['start', app, '--port', '0', '--data', dataDir, '--json', '--log-level', 'warn', ...more], options, ipc)
  const ready = JSON.parse(await running.line(/^\{"event":"ready"/)) as { url: string }
  return {
    ...running,
    url: ready.url,
    ready,
    stop(signal = 'SIGTERM') {
      running.child.kill(signal)
      return running.ended
    },
  }
}

/** A folder of the test, and the way to drop it. */
export function temporaryFolder(): { readonly path: string; drop(): void } {
  const path = mkdtempSync(join(tmpdir(), 'headrace-test-'))
  return { path, drop: () => rmSync(path, { recursive: true, force: true }) }
}

export async function post(
  url: string,
  command: string,
  id: string,
  input: unknown,
  headers: Readonly<Record<string, string>> = {},
): Promise<{ readonly status: number; readonly body: Record<string, unknown> }> {
  const response = await fetch(`${url}/commands/${command}`, {
    method: 'POST',
    headers: { 'content-type': 'application/json', 'idempotency-key': id, ...headers },
    body: JSON.stringify(input),
  })
  return { status: response.status, body: (await response.json()) as Record<string, unknown> }
}

export async function get(url: string): Promise<{ readonly status: number; readonly body: Record<string, unknown> }> {
  const response = await fetch(url)
  return { status: response.status, body: (await response.json()) as Record<string, unknown> }
}
