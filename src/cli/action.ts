/** Runs the action of a command: gives it a terminal, turns what it throws into a message and an exit code. */
import type { Command } from 'commander'
import { HeadraceError } from '../contracts/errors.ts'
import { CliError, exitCodes } from './exit.ts'
import { createTerminal, type Terminal } from './terminal.ts'

export interface Invocation<Options> {
  readonly terminal: Terminal
  readonly options: Options & { readonly json?: boolean }
  /** The arguments that are no options, in order. */
  readonly words: readonly string[]
}

/** Resolves with the exit code. */
export type Action<Options> = (invocation: Invocation<Options>) => Promise<number>

/** Makes an action of commander from one of ours. The process ends with the exit code, whatever handles are still open. */
export function act<Options>(action: Action<Options>): (...given: unknown[]) => Promise<void> {
  return async (...given) => {
    const command = given.at(-1) as Command
    const options = command.optsWithGlobals() as Options & { json?: boolean }
    const terminal = createTerminal(options.json === true)
    await leave(await attempt(terminal, () => action({ terminal, options, words: command.args })))
  }
}

async function attempt(terminal: Terminal, run: () => Promise<number>): Promise<number> {
  try {
    return await run()
  } catch (error) {
    return report(terminal, error)
  }
}

/** Shows an error to people and programs, and gives the exit code for it. */
export function report(terminal: Terminal, error: unknown): number {
  const { exitCode, code, hint: shownHint, message: shownMessage } = asCliError(error)
  const message = withoutPasswords(shownMessage)
  const hint = shownHint === undefined ? undefined : withoutPasswords(shownHint)
  terminal.document({ error: { code, message, ...(hint === undefined ? {} : { hint }) } })
  terminal.note(`${terminal.style('red', 'error')}: ${message}`)
  if (hint !== undefined) terminal.note(hint)
  return exitCode
}

/** Messages of the parser repeat words of the command line, and one of them may be a url in a wrong place. */
/** For people: a text without the passwords of the urls in it. */
export function withoutPasswords(text: string): string {
  return text.replace(/(\w:\/\/[^\s:/@]*:)[^\s]*@/g, '$1***@').replace(/([?&]password=)[^&\s'"]*/gi, '$1***')
}

function asCliError(error: unknown): CliError {
  if (error instanceof CliError) return error
  if (HeadraceError.is(error)) {
    const usage = error.code.startsWith('option-') || error.code === 'app-invalid'
    return new CliError(usage ? exitCodes.usage : exitCodes.unavailable, error.code, error.message)
  }
  return new CliError(exitCodes.failed, 'unexpected', error instanceof Error ? (error.stack ?? error.message) : String(error))
}

/** Ends the process once what was written has gone out. */
export async function leave(code: number): Promise<never> {
  for (const stream of [process.stdout, process.stderr]) await new Promise<void>((resolve) => stream.write('', () => resolve()))
  process.exit(code)
}
