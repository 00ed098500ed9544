/** How a handler fails, and what is kept of it. */
import { HeadraceError } from '../contracts/errors.ts'
import type { DeathReason } from '../contracts/queue.ts'

/** Thrown by a handler when trying again is of no use: the message becomes a dead letter at once. */
export class Unprocessable extends Error {
  constructor(message: string, options?: { readonly cause?: unknown }) {
    super(message, options)
    this.name = 'Unprocessable'
  }
}

export function reasonOf(error: unknown, attempts: number): DeathReason {
  const code = HeadraceError.is(error) ? error.code : error instanceof Unprocessable ? 'unprocessable' : 'handler-failed'
  const message = error instanceof Error ? error.message : String(error)
  return { code, message, attempts }
}
