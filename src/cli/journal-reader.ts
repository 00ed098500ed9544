/** Reads dead letters and outcomes straight from the journal of a data directory, read-only, for when no node runs. */
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import type { DatabaseSyncInstance } from '@photostructure/sqlite'
import { callerId, scopedId } from '../pipeline/outcome.ts'
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

const letterColumns = 'position, key, id, command, tenant, input, accepted_at, attempts, code, message, died_at, blocks'

export async function localDeadLetters(
  dataDir: string,
  { after, limit }: { readonly after: number; readonly limit: number },
): Promise<{ deadLetters: LetterDocument[]; more: boolean }> {
  const rows = await read<Row>(dataDir, `select ${letterColumns} from dead where position > ? order by position limit ?`, after, limit)
  const deadLetters = rows.map(({ accepted_at: acceptedAt, died_at: diedAt, ...row }) => ({
    ...row,
    id: callerId(row.id),
    input: JSON.parse(row.input) as unknown,
    acceptedAt,
    diedAt,
    blocks: row.blocks === 1,
  }))
  return { deadLetters, more: rows.length === limit }
}

/** The stored outcome document, or that the command waits; null when neither is known. */
export async function localOutcome(dataDir: string, command: string, tenant: string, id: string): Promise<unknown> {
  const scoped = scopedId(command, tenant, id)
  const [outcome] = await read<{ body: string }>(dataDir, 'select body from outcome where id = ?', scoped)
  if (outcome !== undefined) return JSON.parse(outcome.body)
  const [waiting] = await read<{ position: number }>(dataDir, 'select position from entry where id = ?', scoped)
  return waiting === undefined ? null : { id, command, status: 'pending', position: waiting.position }
}

async function read<Result>(dataDir: string, text: string, ...values: readonly (string | number)[]): Promise<Result[]> {
  const file = join(dataDir, 'journal.sqlite')
  if (!existsSync(file))
    throw new CliError(
      exitCodes.usage,
      'data-missing',
      `There is no journal in ${dataDir}.`,
      'Name the data directory that a node was started with.',
    )
  const { DatabaseSync } = await import('@photostructure/sqlite')
  const database: DatabaseSyncInstance = new DatabaseSync(file, { readOnly: true })
  try {
    return database.prepare(text).all(...values) as Result[]
  } finally {
    database.close()
  }
}
