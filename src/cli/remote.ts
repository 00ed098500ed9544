/** Asks a running node over HTTP, for commands of the command line that look and repair. */
import { CliError, exitCodes } from './exit.ts'

export interface RemoteOptions {
  readonly url: string
  readonly adminToken?: string | undefined
}

export interface RemoteReply {
  readonly status: number
  readonly text: string
}

/** Longest wait for a reply, in milliseconds. */
const replyTimeoutMs = 10_000

export const defaultUrl = 'http://127.0.0.1:8080'

/** Sends one request. Ends the command with 'unavailable' when the node cannot be reached. */
export async function askNode(
  options: RemoteOptions,
  method: 'GET' | 'POST',
  path: string,
  headers: Readonly<Record<string, string>> = {},
): Promise<RemoteReply> {
  try {
    const response = await fetch(options.url + path, {
      method,
      headers: { ...headers, ...(options.adminToken === undefined ? {} : { authorization: `Bearer ${options.adminToken}` }) },
      signal: AbortSignal.timeout(replyTimeoutMs),
    })
    return { status: response.status, text: await response.text() }
  } catch (error) {
    throw new CliError(
      exitCodes.unavailable,
      'node-unreachable',
      `Cannot reach ${options.url}: ${reasonOf(error)}.`,
      'Start the node (headrace start app.ts), or name its address: --url http://…',
    )
  }
}

function reasonOf(error: unknown): string {
  const { name, message, cause } = error as Error
  if (name === 'TimeoutError') return `no answer in ${replyTimeoutMs / 1000} s`
  const { code } = (cause ?? {}) as NodeJS.ErrnoException
  return code === 'ECONNREFUSED' ? 'nothing listens there' : code === 'ENOTFOUND' ? 'the name is not known' : (code ?? message)
}

/** The same, with the reply as JSON; a problem document ends the command with its code and words. */
export async function askNodeJson<T>(
  options: RemoteOptions,
  method: 'GET' | 'POST',
  path: string,
  headers: Readonly<Record<string, string>> = {},
): Promise<T> {
  const { status, text } = await askNode(options, method, path, headers)
  let document: unknown
  try {
    document = JSON.parse(text)
  } catch {
    throw new CliError(
      exitCodes.unavailable,
      'answer-unreadable',
      `${options.url}${path} answered ${status} with something that is not JSON.`,
      'Is it a Headrace node?',
    )
  }
  if (status >= 400) throw problemError(options, path, status, document)
  return document as T
}

function problemError(options: RemoteOptions, path: string, status: number, document: unknown): CliError {
  const { code, detail, title } = document as { code?: unknown; detail?: unknown; title?: unknown }
  const name = typeof code === 'string' ? code : `http-${status}`
  const hint = name === 'admin-refused' ? 'Run it on the machine of the node, or give --admin-token.' : undefined
  return new CliError(
    exitCodes.failed,
    name,
    typeof detail === 'string' ? detail : typeof title === 'string' ? title : `${options.url}${path} answered ${status}.`,
    hint,
  )
}
