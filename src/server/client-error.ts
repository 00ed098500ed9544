/**
 * Answers what never became a request: bytes that are not HTTP, headers that
 * are too large, and clients that are too slow.
 */
import { STATUS_CODES } from 'node:http'
import type { Socket } from 'node:net'
import { type ErrorCode, HeadraceError } from '../contracts/errors.ts'
import { problemMediaType, problemOf } from './problem.ts'

const codes: Readonly<Record<string, ErrorCode>> = {
  HPE_HEADER_OVERFLOW: 'headers-too-large',
  ERR_HTTP_REQUEST_TIMEOUT: 'request-timeout',
}

/** Node's own mark on a socket whose answer has begun: another head in the middle of it would be read as its body. */
function answerHasBegun(socket: Socket): boolean {
  const { _httpMessage: message } = socket as { _httpMessage?: { headersSent?: boolean } | null }
  return message?.headersSent === true
}

/** The handler for 'clientError' of an HTTP server. */
export function clientErrorHandler(bulkSockets: WeakSet<Socket>): (error: Error & { code?: string }, socket: Socket) => void {
  return (error, socket) => {
    // A bulk request has limits of its own: bulkIdleMs and bulkMsMax.
    if (error.code === 'ERR_HTTP_REQUEST_TIMEOUT' && bulkSockets.has(socket)) return
    if (error.code === 'ECONNRESET' || !socket.writable || answerHasBegun(socket)) {
      socket.destroy(error)
      return
    }
    const problem = problemOf(new HeadraceError(codes[error.code ?? ''] ?? 'request-malformed'))
    const body = JSON.stringify(problem)
    socket.write(
      `HTTP/1.1 ${problem.status} ${STATUS_CODES[problem.status]}\r\ncontent-type: ${problemMediaType}\r\ncontent-length: ${Buffer.byteLength(body)}\r\nconnection: close\r\n\r\n${body}`,
    )
    socket.destroySoon()
  }
}
