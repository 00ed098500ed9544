/** Asks before what cannot be undone. */
import { createInterface } from 'node:readline'
import { CliError, exitCodes } from './exit.ts'
import type { Terminal } from './terminal.ts'

export interface Question {
  /** What is about to be done: "Undo shop_n1_… in stock and wallet". */
  readonly what: string
  /** --yes. */
  readonly yes: boolean | undefined
}

type Answers = NodeJS.ReadableStream & { readonly isTTY?: boolean }

/** False when the person says no. Throws 'confirmation-missing' where nobody can be asked. */
export async function confirmed(terminal: Terminal, { what, yes }: Question, input: Answers = process.stdin): Promise<boolean> {
  if (yes === true) return true
  if (terminal.json || !terminal.live || input.isTTY !== true)
    throw new CliError(
      exitCodes.usage,
      'confirmation-missing',
      `${what}: that cannot be taken back.`,
      'Give --yes to do it without being asked.',
    )
  // The question is a notice, and goes where they go; standard output keeps the result alone.
  terminal.note(`${what}? That cannot be taken back. [y/N]`)
  const lines = createInterface({ input })
  try {
    const line = await Promise.race([
      new Promise<string>((resolve) => lines.once('line', resolve)),
      new Promise<string>((resolve) => lines.once('close', () => resolve(''))),
    ])
    if (/^y(es)?$/i.test(line.trim())) return true
    terminal.note('Nothing was done.')
    return false
  } finally {
    lines.close()
  }
}
