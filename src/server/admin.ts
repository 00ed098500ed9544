/**
 * Routes for whoever operates the node: dead letters, blocked keys, status.
 *
 *   await fastify.register(adminRoutes, { app, prefix: '/admin' })
 *
 *   GET  /admin/status
 *   GET  /admin/dead-letters?after=0&limit=100
 *   GET  /admin/dead-letters/:position
 *   POST /admin/dead-letters/:position/redrive
 *   POST /admin/dead-letters/:position/drop
 *   GET  /admin/blocked-keys
 *
 * Without a token only callers of the same machine are let in: the peer is a
 * loopback address, no proxy has passed the request on, and no web page sent
 * it. With a token, whoever sends it as `Authorization: Bearer …` is let in,
 * and nobody else.
 */
import { createHash, timingSafeEqual } from 'node:crypto'
import { isIP } from 'node:net'
import type { FastifyPluginAsync, FastifyRequest } from 'fastify'
import { HeadraceError } from '../contracts/errors.ts'
import type { DeadLetter } from '../contracts/ledger.ts'
import type { App } from '../pipeline/app-contract.ts'
import { callerId } from '../pipeline/outcome.ts'
import { asHeadraceError, problemOf, sendProblem, worthLogging } from './problem.ts'

export interface AdminOptions {
  readonly app: App
  /** What callers must send as a bearer token. Default: none, and only this machine is let in. */
  readonly token?: string
}

/** Dead letters in one answer. */
const listMax = 1_000
/** Characters of a token; a shorter one could be guessed. */
const tokenLengthMin = 16

/** Throws 'option-invalid' for a token that is too short. */
export const adminRoutes: FastifyPluginAsync<AdminOptions> = async (fastify, { app, token }) => {
  if (token !== undefined && token.length < tokenLengthMin)
    throw new HeadraceError('option-invalid', `The admin token must have at least ${tokenLengthMin} characters.`)
  const expected = token === undefined ? null : digest(`Bearer ${token}`)

  fastify.addHook('onRequest', async (request, reply) => {
    reply.header('cache-control', 'no-store')
    if (expected !== null ? !hasToken(request, expected) : !isFromHere(request)) throw new HeadraceError('admin-refused')
  })
  fastify.setErrorHandler((error, _request, reply) => {
    const known = asHeadraceError(error)
    if (worthLogging(known)) fastify.log.error({ err: error }, 'an admin request failed')
    return sendProblem(reply, problemOf(known))
  })

  fastify.get('/status', async () => {
    const { name, options } = app
    return { app: name, pid: process.pid, node: process.version, dataDir: options.dataDir, ...(await app.status()) }
  })
  fastify.get<{ Querystring: Record<string, unknown> }>('/dead-letters', async ({ query }) => {
    const after = wholeNumber('after', query['after'] ?? '0', Number.MAX_SAFE_INTEGER)
    const limit = wholeNumber('limit', query['limit'] ?? '100', listMax)
    const found = await app.deadLetters.list({ after, limit })
    return { deadLetters: found.map(document), more: found.length === limit }
  })
  fastify.get<{ Params: { position: string } }>('/dead-letters/:position', async ({ params }) =>
    document(await app.deadLetters.get(positionOf(params))),
  )
  fastify.post<{ Params: { position: string } }>('/dead-letters/:position/redrive', async ({ params }) => {
    const position = positionOf(params)
    await app.deadLetters.redrive(position)
    return { position, done: 'redrive' }
  })
  fastify.post<{ Params: { position: string } }>('/dead-letters/:position/drop', async ({ params }) => {
    const position = positionOf(params)
    await app.deadLetters.drop(position)
    return { position, done: 'drop' }
  })
  fastify.get('/blocked-keys', async () => ({ blockedKeys: await app.deadLetters.blockedKeys() }))
}

/** A dead letter as the caller knows it: under its own id, with its input as JSON. */
function document(letter: DeadLetter): Readonly<Record<string, unknown>> {
  return { ...letter, id: callerId(letter.id), input: JSON.parse(letter.input) as unknown }
}

function positionOf({ position }: { readonly position: string }): number {
  return wholeNumber('position', position, Number.MAX_SAFE_INTEGER)
}

function wholeNumber(name: string, text: unknown, max: number): number {
  const value = typeof text === 'string' && /^\d{1,16}$/.test(text) ? Number(text) : Number.NaN
  if (!(value <= max)) throw new HeadraceError('parameter-invalid', `${name} must be a whole number up to ${max}.`)
  return value
}

function digest(text: string): Buffer {
  return createHash('sha256').update(text).digest()
}

function hasToken(request: FastifyRequest, expected: Buffer): boolean {
  return timingSafeEqual(digest(request.headers.authorization ?? ''), expected)
}

/** A proxy on this machine has a loopback address too, and so has the browser: both are told by their headers. */
function isFromHere(request: FastifyRequest): boolean {
  const { headers } = request
  const passedOn = headers['forwarded'] ?? headers['x-forwarded-for'] ?? headers['x-real-ip'] ?? headers['via']
  const fromPage = headers['origin'] ?? headers['sec-fetch-site']
  return passedOn === undefined && fromPage === undefined && isLoopback(request.socket.remoteAddress ?? '')
}

function isLoopback(address: string): boolean {
  const plain = address.replace(/^::ffff:/i, '')
  return plain === '::1' || (isIP(plain) === 4 && plain.startsWith('127.'))
}
