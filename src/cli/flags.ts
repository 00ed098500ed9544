/** Readers of flag values, and the flags that are made from the table of limits. */
import { InvalidArgumentError, Option, type Command } from 'commander'

/** batchCommandsMax → --batch-commands-max */
export function flagName(limit: string): string {
  return `--${limit.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`)}`
}

/** A table of limits, as the app and the server define theirs. */
export type LimitTable = Readonly<
  Record<string, { readonly default: number; readonly min: number; readonly max: number; readonly about: string }>
>

/** Adds a flag for every limit of a table, under a heading of its own in the help. */
export function addLimitFlags(command: Command, heading: string, limits: LimitTable): void {
  for (const [name, { default: value, min, max, about }] of Object.entries(limits)) {
    command.addOption(new Option(`${flagName(name)} <n>`, `${about} (${value})`).argParser(wholeNumber(min, max)).helpGroup(heading))
  }
}

/** The limits of a table that the command line gave. */
export function givenLimits<Table extends LimitTable>(
  options: Readonly<Record<string, unknown>>,
  limits: Table,
): { [K in keyof Table]?: number } {
  const given: Record<string, number> = {}
  for (const name of Object.keys(limits)) {
    const value = options[name]
    if (typeof value === 'number') given[name] = value
  }
  return given as { [K in keyof Table]?: number }
}

export function wholeNumber(min: number, max: number = Number.MAX_SAFE_INTEGER): (text: string) => number {
  return (text) => {
    const value = Number(text.replace(/(?<=\d)_(?=\d)/g, ''))
    if (text.trim() === '' || !Number.isSafeInteger(value) || value < min || value > max) {
      throw new InvalidArgumentError(
        max === Number.MAX_SAFE_INTEGER ? `It must be a whole number from ${min}.` : `It must be a whole number from ${min} to ${max}.`,
      )
    }
    return value
  }
}

export function share(text: string): number {
  const value = text.endsWith('%') ? Number(text.slice(0, -1)) / 100 : Number(text)
  if (text.trim() === '' || !(value >= 0 && value <= 1))
    throw new InvalidArgumentError('It must be a share from 0 to 1, such as 0.1 or 10%.')
  return value
}

const units: Readonly<Record<string, number>> = { ms: 1, s: 1000, m: 60_000, min: 60_000, h: 3_600_000 }

/** A length of time: 500ms, 10s, 2m; a plain number is seconds. Gives milliseconds. */
export function lengthOfTime(text: string): number {
  const match = /^(\d+(?:\.\d+)?)\s*(ms|s|m|min|h)?$/.exec(text.trim())
  const value = match === null ? Number.NaN : Math.round(Number(match[1]) * (units[match[2] ?? 's'] ?? 1000))
  if (!Number.isSafeInteger(value)) throw new InvalidArgumentError('It must be a length of time, such as 500ms, 10s or 2m.')
  return value
}

/** The address of a node: http://host:port, host:port, or :port on this machine. */
export function address(text: string): string {
  const withHost = text.startsWith(':') ? `127.0.0.1${text}` : text
  const withScheme = /^[a-z]+:\/\//i.test(withHost) ? withHost : `http://${withHost}`
  if (!URL.canParse(withScheme)) throw new InvalidArgumentError('It must be an address, such as http://127.0.0.1:8080.')
  const url = new URL(withScheme)
  if (url.protocol !== 'http:' && url.protocol !== 'https:') throw new InvalidArgumentError('It must begin with http:// or https://.')
  return url.href.replace(/\/+$/, '')
}
