/** A name for one client of an engine among all others: host, process and a random part, of letters, digits, dots, dashes and colons. */
import { randomBytes } from 'node:crypto'
import { hostname } from 'node:os'

const hostCharactersMax = 40

export function clientName(): string {
  const host = hostname()
    .replace(/[^A-Za-z0-9.-]/g, '-')
    .slice(0, hostCharactersMax)
  return `${host === '' ? 'host' : host}:${process.pid}:${randomBytes(6).toString('hex')}`
}
