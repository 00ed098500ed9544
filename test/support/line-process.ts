/**
 * A child process that speaks by lines of JSON, as an object: what it says is
 * waited for, and it is asked, stopped where it stands, and killed.
 *
 * Its script gets its options as JSON in the first argument, writes one object a
 * line, and ends with its standard input.
 */
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'

const running = new Set<LineProcess<object>>()

export class LineProcess<Line extends object> {
  readonly lines: Line[] = []
  readonly #child: ChildProcess
  readonly #listeners = new Set<() => void>()
  #ended = false

  /** `under` is a program and its arguments that run it, such as strace. */
  protected constructor(script: URL, options: object, under: readonly string[] = []) {
    const command = [...under, process.execPath, fileURLToPath(script), JSON.stringify(options)]
    this.#child = spawn(command[0] as string, command.slice(1), { stdio: ['pipe', 'pipe', 'inherit'] })
    createInterface({ input: this.#child.stdout as NodeJS.ReadableStream }).on('line', (text) => {
      this.lines.push(JSON.parse(text) as Line)
      this.#look()
    })
    this.#child.stdin?.on('error', () => {})
    this.#child.on('close', () => {
      this.#ended = true
      this.#look()
    })
    running.add(this)
  }

  /** Kills all that run. */
  static async endAll(): Promise<void> {
    await Promise.all([...running].map((each) => each.kill()))
  }

  /** The first line, said already or to come, that fits; the runner's time is the bound. Rejects when the process ends without it. */
  seen(fits: (line: Line) => boolean): Promise<Line> {
    const said = new Promise<Line>((resolve, reject) => {
      const look = (): void => {
        const line = this.lines.find(fits)
        if (line !== undefined) resolve(line)
        else if (this.#ended) reject(new Error(`the process ended without saying it; its last line: ${JSON.stringify(this.lines.at(-1))}`))
        else return
        this.#listeners.delete(look)
      }
      this.#listeners.add(look)
      look()
    })
    // A test may kill it while nobody waits for the answer any more.
    said.catch(() => {})
    return said
  }

  /** Resolves when it is gone and all that it said was heard. */
  async ended(): Promise<void> {
    if (!this.#ended) await once(this.#child, 'close')
  }

  say(what: object): void {
    this.#child.stdin?.write(`${JSON.stringify(what)}\n`)
  }

  stop(): void {
    this.#child.kill('SIGSTOP')
  }

  goOn(): void {
    this.#child.kill('SIGCONT')
  }

  async kill(): Promise<void> {
    running.delete(this)
    if (this.#child.exitCode !== null || this.#child.signalCode !== null) return
    this.#child.kill('SIGKILL')
    await once(this.#child, 'exit')
  }

  #look(): void {
    for (const look of this.#listeners) look()
  }
}
