/** One line of a bulk request: `{"id": "…", "input": …, "tenant"?: "…"}`. */
import { HeadraceError } from '../contracts/errors.ts'
import { checkId, defaultTenant, readTenant } from './headers.ts'

/** The line without the white space that JSON allows around it, a carriage return included. */
export function trim(bytes: Buffer, start: number, end: number): Buffer {
  let from = start
  let to = end
  while (from < to && isBlank(bytes[from])) from += 1
  while (to > from && isBlank(bytes[to - 1])) to -= 1
  return bytes.subarray(from, to)
}

function isBlank(byte: number | undefined): boolean {
  return byte === 0x20 || byte === 0x0d || byte === 0x09
}

/** Throws 'parameter-invalid', 'id-missing', 'id-invalid' and 'body-missing'. */
export function readLine(value: unknown): { id: string; tenant: unknown; input: unknown } {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    throw new HeadraceError('parameter-invalid', 'A line of a bulk request is an object: {"id": "…", "input": …}.')
  }
  const { id, tenant, input } = value as { id?: unknown; tenant?: unknown; input?: unknown }
  if (id === undefined)
    throw new HeadraceError('id-missing', 'The line has no id: send {"id": "…", "input": …}, with an id that is new for each new command.')
  if (typeof id !== 'string') throw new HeadraceError('id-invalid')
  if (input === undefined) throw new HeadraceError('body-missing', 'The line has no input: send {"id": "…", "input": …}.')
  return { id: checkId(id), tenant, input }
}

/** Whoever sets the tenant of the request (a proxy that knows the caller, say) sets it for all lines. */
export function tenantOf(named: unknown, fixed: string | undefined): string {
  if (named === undefined) return fixed ?? defaultTenant
  if (typeof named !== 'string') throw new HeadraceError('tenant-invalid')
  if (fixed !== undefined && named !== fixed)
    throw new HeadraceError('tenant-invalid', 'The line names another tenant than the Headrace-Tenant header of its request.')
  return readTenant(named)
}
