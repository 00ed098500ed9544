/**
 * Sends commands over HTTP: one in a request, or many as the lines of one
 * request. Always resolves, with one answer per command, in order.
 */
import { answerOf, parseObject, transportAnswer, type Answer, type Job } from './answer.ts'
import type { Reply, Transport } from './transport.ts'

export interface Sender {
  /** How many commands go into one request. */
  readonly commandsMax: number
  send(jobs: readonly Job[]): Promise<Answer[]>
}

export interface SenderOptions {
  readonly command: string
  /** The value of the Prefer header (RFC 7240), such as 'wait=2' or 'respond-async'. */
  readonly prefer?: string | undefined
  readonly tenant?: string | undefined
}

/** One command per request; the id travels in the Idempotency-Key header. */
export function singleSender(transport: Transport, options: SenderOptions): Sender {
  const path = commandPath(options)
  const fixed = [...commonHeaders(options), 'content-type', 'application/json', 'idempotency-key']
  return {
    commandsMax: 1,
    async send(jobs) {
      const [job] = jobs
      if (job === undefined) return []
      try {
        const reply = await transport.send('POST', path, [...fixed, job.id], job.input)
        return [answerOf(reply.status, reply.body, reply.location, reply.retryAfterMs)]
      } catch (error) {
        return [transportAnswer(error)]
      }
    },
  }
}

function commandPath(options: SenderOptions): string {
  return `/commands/${encodeURIComponent(options.command)}`
}

function commonHeaders(options: SenderOptions): string[] {
  const headers: string[] = []
  if (options.prefer !== undefined) headers.push('prefer', options.prefer)
  if (options.tenant !== undefined) headers.push('headrace-tenant', options.tenant)
  return headers
}

/** Many commands as lines of one request; each line names its id. A line that got no answer counts as not sent. */
export function bulkSender(transport: Transport, options: SenderOptions, commandsMax: number): Sender {
  const path = commandPath(options)
  const headers = [...commonHeaders(options), 'content-type', 'application/x-ndjson']
  return {
    commandsMax,
    async send(jobs) {
      let body = ''
      for (const job of jobs) body += `{"id":${JSON.stringify(job.id)},"input":${job.input}}\n`
      try {
        const reply = await transport.send('POST', path, headers, body)
        if (reply.status !== 200) return jobs.map(() => answerOf(reply.status, reply.body, null, reply.retryAfterMs))
        const lines = reply.body.split('\n')
        return jobs.map((_, index) => lineAnswer(lines[index] ?? ''))
      } catch (error) {
        return jobs.map(() => transportAnswer(error))
      }
    },
  }
}

const unanswered = Object.assign(new Error('the bulk request ended before this line'), { code: 'line-unanswered' })

/** A line of a bulk answer: an outcome, `pending`, or a problem document that carries the status. */
function lineAnswer(line: string): Answer {
  if (line === '') return transportAnswer(unanswered)
  const document = parseObject(line)
  const status = document?.['status']
  if (typeof status !== 'number') return answerOf(status === 'pending' ? 202 : 200, line, null, null)
  const retryAfter = document?.['retryAfter']
  return answerOf(status, line, null, typeof retryAfter === 'number' ? retryAfter * 1000 : null)
}

/** One query per request: GET, with its parameters in the address. */
export function querySender(transport: Transport, query: string): Sender {
  const path = `/queries/${encodeURIComponent(query)}`
  return {
    commandsMax: 1,
    async send(jobs) {
      const [job] = jobs
      if (job === undefined) return []
      try {
        const reply = await transport.send('GET', job.input === '' ? path : `${path}?${job.input}`, [], null)
        return [queryAnswer(reply)]
      } catch (error) {
        return [transportAnswer(error)]
      }
    },
  }
}

/** A query is answered with any JSON, which may look like an outcome and is none. */
function queryAnswer({ status, body, location, retryAfterMs }: Reply): Answer {
  if (status === 200) return { kind: 'committed', code: null, status, body, position: null, location, retryAfterMs }
  const answer = answerOf(status, body, location, retryAfterMs)
  return answer.kind === 'problem' ? answer : { ...answer, kind: 'problem', code: answer.code ?? `http-${status}` }
}

/** Commands and queries, each by a sender of its own. Both must send one in a request. */
export function mixedSender(commands: Sender, queries: Sender): Sender {
  return {
    commandsMax: 1,
    send: (jobs) => (jobs[0]?.kind === 'query' ? queries : commands).send(jobs),
  }
}
