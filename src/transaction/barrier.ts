/**
 * The receiving side of sagas, TCC and three-phase commit: what makes calls that
 * come twice, late, out of order, or for nothing, harmless.
 *
 *   await coordinator.transaction({ databases: { wallet } }, ({ databases }) =>
 *     barrier(databases.wallet, branchCall(request.headers), async () => { … change databases.wallet … }))
 *
 * Each call leaves a row in `saga_barrier`, in the transaction of what it changes:
 * both are there, or neither.
 *
 * - a call that comes again changes nothing, and gets the first answer;
 * - a cancel for a try that never came is *empty*: it changes nothing, and takes
 *   the place of the try;
 * - a try that comes after its cancel finds its place taken: 'call-late';
 * - a confirm of what was never tried is refused: 'call-early'.
 *
 * The idea is that of the sub-transaction barrier of DTM (https://dtm.pub).
 */
import type { Database } from '../contracts/database.ts'
import { HeadraceError } from '../contracts/errors.ts'
import { gidPattern } from '../contracts/participant.ts'
import { StepRefused } from './saga/records.ts'

export const callHeaders = Object.freeze({
  gid: 'headrace-gid',
  branch: 'headrace-branch',
  operation: 'headrace-operation',
  attempt: 'headrace-attempt',
})

const forwardOf = { undo: 'do', cancel: 'try', abort: 'can-commit' } as const
const followsOf = { 'confirm': 'try', 'pre-commit': 'can-commit', 'do-commit': 'can-commit' } as const
const backOf = { 'confirm': 'cancel', 'pre-commit': 'abort', 'do-commit': 'abort' } as const

type Back = keyof typeof forwardOf
type Follow = keyof typeof followsOf
export type CallOperation = 'do' | 'try' | 'can-commit' | Back | Follow

const operations: ReadonlySet<string> = new Set(['do', 'try', 'can-commit', ...Object.keys(forwardOf), ...Object.keys(followsOf)])

/** Which call of which branch this is, as the headers say. */
export interface BranchCall {
  readonly gid: string
  readonly branch: string
  readonly operation: CallOperation
  /** From 1; for logs. */
  readonly attempt: number
}

/** `done`: it ran now. `repeated`: it ran before, with this answer. `empty`: there was nothing to undo. */
export interface BarrierEnd<T> {
  readonly outcome: 'done' | 'repeated' | 'empty'
  readonly answer: T | undefined
}

const table = 'saga_barrier'
const branchPattern = /^[a-zA-Z][a-zA-Z0-9_-]{0,39}$/
const answerBytesMax = 65_536

export const postgresBarrierSql = `
create table if not exists saga_barrier (
  gid varchar(60) collate "C" not null, branch varchar(40) collate "C" not null, operation varchar(16) collate "C" not null,
  by_operation varchar(16) collate "C" not null, answer text, at bigint not null, primary key (gid, branch, operation)
);
create index if not exists saga_barrier_at on saga_barrier (at);
`

export const mysqlBarrierSql = `
create table if not exists saga_barrier (
  gid varchar(60) character set ascii collate ascii_bin not null, branch varchar(40) character set ascii collate ascii_bin not null,
  operation varchar(16) character set ascii collate ascii_bin not null, by_operation varchar(16) character set ascii collate ascii_bin not null,
  answer longtext character set utf8mb4, at bigint not null, primary key (gid, branch, operation), key saga_barrier_at (at)
) engine=InnoDB;
`

export const sqliteBarrierSql = `
create table if not exists saga_barrier (
  gid text not null, branch text not null, operation text not null, by_operation text not null, answer text, at integer not null,
  primary key (gid, branch, operation)
);
create index if not exists saga_barrier_at on saga_barrier (at);
`

/** Reads the headers of a call. Throws 'call-invalid'. */
export function branchCall(headers: Readonly<Record<string, string | readonly string[] | undefined>>): BranchCall {
  const one = (name: string): string => {
    const value = headers[name]
    if (typeof value === 'string') return value
    throw new HeadraceError('call-invalid', `The header ${name} is missing, or is there twice.`)
  }
  const gid = one(callHeaders.gid)
  const branch = one(callHeaders.branch)
  const operation = one(callHeaders.operation)
  const attempt = one(callHeaders.attempt)
  if (!gidPattern.test(gid)) throw new HeadraceError('call-invalid', `The header ${callHeaders.gid} must be 1 to 60 of a-z, 0-9 and _.`)
  if (!branchPattern.test(branch)) throw new HeadraceError('call-invalid', `The header ${callHeaders.branch} is not the name of a branch.`)
  if (!operations.has(operation))
    throw new HeadraceError('call-invalid', `The header ${callHeaders.operation} must be one of ${[...operations].join(', ')}.`)
  if (!/^[1-9][0-9]{0,8}$/.test(attempt))
    throw new HeadraceError('call-invalid', `The header ${callHeaders.attempt} must be a number from 1.`)
  return { gid, branch, operation: operation as CallOperation, attempt: Number(attempt) }
}

/**
 * Runs `run` once for a call, in the transaction of `database`. What `run` throws
 * must undo that transaction; the barrier then has seen nothing. The answer is
 * kept as JSON. Throws 'call-late', 'call-early', and 'result-invalid' for an
 * answer that is no JSON of at most 64 KiB.
 */
export async function barrier<T>(database: Database, call: BranchCall, run: () => T | Promise<T>): Promise<BarrierEnd<T>> {
  const { operation } = call
  if (operation in followsOf) await mustFollow(database, call, operation as Follow)
  // Taking the place of the try first: whoever comes second waits for the other's commit.
  const empty = operation in forwardOf && (await take(database, call, forwardOf[operation as Back]))
  if (!(await take(database, call, operation))) {
    const row = (await rowsOf(database, call)).find((each) => each.operation === operation)
    if (row?.by !== operation) throw late(call)
    return { outcome: 'repeated', answer: row.answer === null ? undefined : (JSON.parse(row.answer) as T) }
  }
  if (empty) return { outcome: 'empty', answer: undefined }
  if (operation in forwardOf) {
    const rows = await rowsOf(database, call)
    const follower = rows.find((each) => each.operation in followsOf && each.operation !== 'pre-commit')
    if (follower !== undefined)
      throw new HeadraceError('call-late', `${operation} of '${call.branch}' in ${call.gid} comes after its ${follower.operation}.`)
  }
  const answer = await run()
  const text = answer === undefined ? null : textOf(answer, call)
  const { gid, branch } = call
  if (text !== null) await database.updateMany(table, ['gid', 'branch', 'operation'], [{ gid, branch, operation, answer: text }])
  return { outcome: 'done', answer: text === null ? undefined : (JSON.parse(text) as T) }
}

/** Drops what is known of transactions whose last call came before this moment (milliseconds since 1970). Returns how many. Keep more than the time in which a call may still be on its way. */
export async function pruneBarrier(database: Database, before: number, limit = 1_000): Promise<number> {
  const rows = await database.sql<{ gid: string }>`select gid from saga_barrier group by gid having max(at) < ${before} limit ${limit}`
  return database.deleteIn(
    table,
    'gid',
    rows.map(({ gid }) => gid),
  )
}

interface BarrierRow {
  readonly operation: string
  readonly by: string
  readonly answer: string | null
}

async function take(database: Database, { gid, branch, operation }: BranchCall, place: string): Promise<boolean> {
  const row = { gid, branch, operation: place, by_operation: operation, answer: null, at: Date.now() }
  return (await database.insertMany(table, [row], { onConflict: 'ignore' })) === 1
}

/** As they are now, not as they were when the transaction began. */
async function rowsOf(database: Database, { gid, branch }: BranchCall): Promise<BarrierRow[]> {
  const rows = await database.selectIn(table, 'gid', [gid], { lock: true })
  return rows
    .filter((row) => row['branch'] === branch)
    .map((row) => ({
      operation: String(row['operation']),
      by: String(row['by_operation']),
      answer: row['answer'] === null ? null : String(row['answer']),
    }))
}

async function mustFollow(database: Database, call: BranchCall, operation: Follow): Promise<void> {
  const rows = await rowsOf(database, call)
  const forward = rows.find((each) => each.operation === followsOf[operation])
  if (forward === undefined)
    throw new HeadraceError('call-early', `${operation} of '${call.branch}' in ${call.gid} comes without a ${followsOf[operation]}.`)
  if (forward.by !== forward.operation || rows.some((each) => each.operation === backOf[operation])) throw late(call)
}

function late({ gid, branch, operation }: BranchCall): HeadraceError {
  return new HeadraceError('call-late', `${operation} of '${branch}' in ${gid} comes after the branch was taken back.`)
}

function textOf(answer: unknown, { branch }: BranchCall): string {
  let text: string | undefined
  try {
    text = JSON.stringify(answer)
  } catch (error) {
    throw new HeadraceError('result-invalid', `The answer of '${branch}' cannot be kept as JSON.`, { cause: error })
  }
  if (text !== undefined && Buffer.byteLength(text) <= answerBytesMax) return text
  throw new HeadraceError('result-invalid', `The answer of '${branch}' is no JSON of at most ${answerBytesMax} bytes.`)
}

export type CallHandlers = Readonly<Partial<Record<CallOperation, (database: Database, call: BranchCall) => unknown>>>

export interface ReceiveOptions {
  /** Of the request, as Node and Fastify give them. */
  readonly headers: Readonly<Record<string, string | readonly string[] | undefined>>
  /** Runs what it is given in one transaction, and undoes that when it throws. */
  transaction<T>(use: (database: Database) => Promise<T>): Promise<T>
  /** What to do for each operation. Throw StepRefused to say no. */
  readonly handlers: CallHandlers
}

export interface CallReply {
  readonly status: number
  readonly body: unknown
}

/**
 * Answers one call, behind the barrier, in one transaction: status and JSON for
 * the reply. Never throws.
 *
 *   server.post('/wallet', async (request, reply) => {
 *     const { status, body } = await receiveCall({ headers: request.headers, transaction, handlers: { try, confirm, cancel } })
 *     return reply.code(status).send(body)
 *   })
 */
export async function receiveCall({ headers, transaction, handlers }: ReceiveOptions): Promise<CallReply> {
  try {
    const call = branchCall(headers)
    const handler = handlers[call.operation]
    if (handler === undefined) throw new HeadraceError('call-invalid', `There is no ${call.operation} here.`)
    const { answer } = await transaction((database) => barrier(database, call, () => handler(database, call)))
    return { status: 200, body: answer ?? null }
  } catch (error) {
    if (StepRefused.is(error)) return { status: 409, body: { code: error.code, message: error.message } }
    if (HeadraceError.is(error)) return { status: error.status, body: { code: error.code, message: error.message } }
    return { status: 500, body: { code: 'service-failed', message: 'The service failed.' } }
  }
}
