/** What the exit codes of `headrace` mean. A program that calls it needs no other way to tell. */
export const exitCodes = Object.freeze({
  ok: 0,
  /** It ran, and the answer is no: a verdict that is not clean, a finding, an operation that was refused. */
  failed: 1,
  /** The command line, or a file that it names, is not right. Nothing was done. */
  usage: 2,
  /** It could not start, listen or connect. */
  unavailable: 3,
  /** Ended by SIGINT, as shells count it. */
  interrupted: 130,
})

export const exitCodesHelp = `
Exit codes:
  0    done, and well
  1    done, and not well: a verdict, a finding, a refused operation
  2    the command line or a file that it names is not right; nothing was done
  3    could not start, listen or connect
  130  interrupted
`

/** Ends the command with a message for people and a code for programs. */
export class CliError extends Error {
  readonly exitCode: number
  /** A stable name for programs, as in the error table. */
  readonly code: string
  readonly hint: string | undefined

  constructor(exitCode: number, code: string, message: string, hint?: string) {
    super(message)
    this.name = 'CliError'
    this.exitCode = exitCode
    this.code = code
    this.hint = hint
  }
}
