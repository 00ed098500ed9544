/** Dead letters read straight from the journal of a data directory, read-only, for when no node runs. */
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { callerId } from '../pipeline/outcome.ts'
import { CliError, exitCodes } from './exit.ts'

/** A dead letter as the routes for operators give it. */
export interface LetterDocument {
  readonly position: number
  readonly key: string
  readonly id: string
  readonly command: string
  readonly tenant: string
  readonly input: unknown
  readonly acceptedAt: number
  readonly attempts: number
  readonly code: string
  readonly message: string
  readonly diedAt: number
  readonly blocks: boolean
}

interface Row {
  readonly position: number
  readonly key: string
  readonly id: string
  readonly command: string
  readonly tenant: string
  readonly input: string
  readonly accepted_at: number
  readonly attempts: number
  readonly code: string
  readonly message: string
  readonly died_at: number
  readonly blocks: number
}

export async function localDeadLetters(
  dataDir: string,
  { after, limit }: { readonly after: number; readonly limit: number },
): Promise<{ deadLetters: LetterDocument[]; more: boolean }> {
  const file = join(dataDir, 'journal.sqlite')
  if (!existsSync(file))
    throw new CliError(
      exitCodes.usage,
      'data-missing',
      `There is no journal in ${dataDir}.`,
      'Name the data directory that a node was started with.',
    )
  const { DatabaseSync } = await import('@photostructure/sqlite')
  const database = new DatabaseSync(file, { readOnly: true })
  try {
    const rows = database
      .prepare(
        'select position, key, id, command, tenant, input, accepted_at, attempts, code, message, died_at, blocks from dead where position > ? order by position limit ?',
      )
      .all(after, limit) as Row[]
    const deadLetters = rows.map(({ accepted_at: acceptedAt, died_at: diedAt, ...row }) => ({
      ...row,
      id: callerId(row.id),
      input: JSON.parse(row.input) as unknown,
      acceptedAt,
      diedAt,
      blocks: row.blocks === 1,
    }))
    return { deadLetters, more: rows.length === limit }
  } finally {
    database.close()
  }
}
