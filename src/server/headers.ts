/**
 * The request headers that mean something to Headrace:
 *
 * - `Idempotency-Key` (draft-ietf-httpapi-idempotency-key-header): a structured
 *   string, `"k1"`, or the bare characters; both name the same id.
 * - `Headrace-Tenant`: whose id it is.
 * - `Prefer` (RFC 7240): `wait=N` and `respond-async`.
 */
import { HeadraceError } from '../contracts/errors.ts'

const visible = /^[\x21-\x7e]{1,128}$/
const structured = /^"((?:[^"\\]|\\["\\])*)"$/
const tenantPattern = /^[A-Za-z0-9._-]{1,64}$/

export const defaultTenant = 'default'

/** Checks an id wherever it came from. A path cannot name '.' and '..', so they are no ids here. Throws 'id-invalid'. */
export function checkId(id: string): string {
  if (!visible.test(id) || id === '.' || id === '..') {
    throw new HeadraceError(
      'id-invalid',
      `The Idempotency-Key must be 1 to 128 visible ASCII characters, and not '.' or '..'; this one has ${id.length} characters.`,
    )
  }
  return id
}

/** Throws 'id-missing' and 'id-invalid'. */
export function readIdempotencyKey(header: string | readonly string[] | undefined): string {
  if (header === undefined) throw new HeadraceError('id-missing')
  if (typeof header !== 'string') throw new HeadraceError('id-invalid', 'Send one Idempotency-Key header, not several.')
  if (!header.startsWith('"')) return checkId(header)
  const match = structured.exec(header)
  if (match === null)
    throw new HeadraceError('id-invalid', 'The Idempotency-Key opens with a quotation mark but is not a quoted string; send "key" or key.')
  const inner = match[1] as string
  return checkId(inner.includes('\\') ? inner.replace(/\\(.)/g, '$1') : inner)
}

/** Throws 'tenant-invalid'. */
export function readTenant(header: string | readonly string[] | undefined): string {
  if (header === undefined) return defaultTenant
  if (typeof header !== 'string' || !tenantPattern.test(header)) throw new HeadraceError('tenant-invalid')
  return header
}

export interface Preference {
  /** Longest wait for the outcome, in milliseconds; 0 answers as soon as the command is durable. */
  readonly waitMs: number
  /** What the answer says it honoured, in the words of RFC 7240; undefined when the client asked for nothing. */
  readonly applied: string | undefined
}

/**
 * Reads Prefer. Of a preference given twice the first one counts; what cannot
 * be understood is ignored, as the RFC asks. `respond-async` alone does not
 * wait; together with `wait` it answers 202 when the wait is over, as every
 * wait does.
 */
export function readPrefer(
  header: string | readonly string[] | undefined,
  limits: { readonly waitMsDefault: number; readonly waitMsMax: number },
): Preference {
  if (header === undefined) return { waitMs: limits.waitMsDefault, applied: undefined }
  let waitSeconds: number | undefined
  let respondAsync = false
  for (const part of String(header).split(',')) {
    const [preference = ''] = part.split(';')
    const equals = preference.indexOf('=')
    const name = (equals < 0 ? preference : preference.slice(0, equals)).trim().toLowerCase()
    if (name === 'respond-async') respondAsync = true
    if (name === 'wait' && waitSeconds === undefined && equals >= 0) {
      const value = preference
        .slice(equals + 1)
        .trim()
        .replace(/^"(.*)"$/, '$1')
      if (/^\d{1,9}$/.test(value)) waitSeconds = Math.min(Number(value), Math.floor(limits.waitMsMax / 1_000))
    }
  }
  if (waitSeconds !== undefined)
    return { waitMs: waitSeconds * 1_000, applied: respondAsync ? `respond-async, wait=${waitSeconds}` : `wait=${waitSeconds}` }
  if (respondAsync) return { waitMs: 0, applied: 'respond-async' }
  return { waitMs: limits.waitMsDefault, applied: undefined }
}
