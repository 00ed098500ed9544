/**
 * The pages of the documentation that are written by the code itself: what they
 * say stands once, in the tables that the code reads.
 */
import { errorTable } from '../src/contracts/errors.ts'
import { environmentName, limitTable } from '../src/pipeline/options.ts'

export interface Page {
  /** Below the root of the repository. */
  readonly file: string
  readonly text: string
}

/** Every page, as it should stand on disk. */
export function pages(): Page[] {
  return [
    { file: 'docs/errors.md', text: errorsPage() },
    { file: 'docs/options.md', text: optionsPage() },
  ]
}

const notice = (source: string): string => `<!-- Written by \`npm run docs\` from ${source}. -->`

function errorsPage(): string {
  const rows = Object.entries(errorTable).map(([code, { status, retryable, title, remedy }]) => [
    `\`${code}\``,
    String(status),
    retryable ? 'yes' : 'no',
    title,
    remedy,
  ])
  return `${notice('src/contracts/errors.ts')}

# Errors

Every error that leaves Headrace carries a code of this table. A code is stable; a message names the thing it is about and says what to do, and may change.

- In code, an error is a \`HeadraceError\` with \`code\`, \`message\`, \`status\`, \`retryable\`, \`details\` and, where it is known, \`retryAfterMs\`.
- Over HTTP, an error is a problem document (RFC 9457) with the same \`code\`, under the status of the table; \`Retry-After\` says when a repeated call makes sense.
- *Again* says whether the same call may succeed later without a change by the caller. A command is repeated under its own id.

${table(['Code', 'Status', 'Again', 'What happened', 'What to do'], rows)}
`
}

function optionsPage(): string {
  const rows = Object.entries(limitTable).map(([name, { default: defaultValue, min, max, about }]) => [
    `\`${name}\``,
    `\`${environmentName(name)}\``,
    amount(name, defaultValue),
    `${amount(name, min)} to ${amount(name, max)}`,
    about,
  ])
  return `${notice('src/pipeline/options.ts')}

# Options

Every limit of the write path has a name with its unit, a default, and bounds that are checked at the start. What the code gives counts first, then the environment variable, then the default. An unknown option is refused, with the nearest known name.

${table(['Option', 'Environment', 'Default', 'Bounds', 'What it limits'], rows)}

Beside them, \`dataDir\` (\`${environmentName('dataDir')}\`, default \`data\`) is the directory of the journal and of the embedded databases.
`
}

function table(header: readonly string[], rows: readonly (readonly string[])[]): string {
  const line = (cells: readonly string[]): string => `| ${cells.map((cell) => cell.replaceAll('|', '\\|')).join(' | ')} |`
  return [line(header), line(header.map(() => '---')), ...rows.map(line)].join('\n')
}

/** A whole number in the unit that the name of its option ends with. */
function amount(name: string, value: number): string {
  if (value === Number.MAX_SAFE_INTEGER) return '2^53 − 1'
  if (name.includes('Bytes')) {
    for (const [unit, size] of Object.entries({ TiB: 2 ** 40, GiB: 2 ** 30, MiB: 2 ** 20, KiB: 2 ** 10 })) {
      if (value >= size && value % size === 0) return `${value / size} ${unit}`
    }
    return `${value} B`
  }
  return `${value.toLocaleString('en-US')}${/Ms(?:Max)?$/.test(name) ? ' ms' : ''}`
}
