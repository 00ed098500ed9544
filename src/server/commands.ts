/**
 * POST /commands/:name with one JSON document: takes the command and answers
 * with its outcome, or with 202 once it would survive a crash.
 *
 * The stored outcome goes out byte for byte, so a repeated Idempotency-Key
 * gets the same bytes. A client that has gone changes nothing: the command
 * goes on, and its outcome can be asked for.
 */
import type { FastifyReply, FastifyRequest } from 'fastify'
import { HeadraceError } from '../contracts/errors.ts'
import type { Outcome } from '../pipeline/app-contract.ts'
import { nearest } from '../contracts/nearest.ts'
import { outcomePath, outcomeReply, pendingReply } from './answers.ts'
import { answerBulk, LineBody } from './bulk.ts'
import type { Edge } from './edge.ts'
import { type Preference, readIdempotencyKey, readPrefer, readTenant } from './headers.ts'
import { asHeadraceError } from './problem.ts'
import { late, within } from './within.ts'

const stillLate = Promise.resolve(late)

function checkCommand(edge: Edge, name: string): void {
  if (edge.gateway.commands.has(name)) return
  const proposal = nearest(name, [...edge.gateway.commands.keys()])
  throw new HeadraceError(
    'command-unknown',
    `There is no command ${JSON.stringify(name.slice(0, 64))}${proposal === null ? '' : `; did you mean '${proposal}'?`} See ${edge.prefix}/openapi.json for the commands of this app.`,
  )
}

export function postCommand(edge: Edge) {
  return async (request: FastifyRequest<{ Params: { name: string } }>, reply: FastifyReply): Promise<unknown> => {
    const { headers } = request.raw
    const { name } = request.params
    const preference = readPrefer(headers['prefer'], edge.limits)
    const tenant = readTenant(headers['headrace-tenant'])
    checkCommand(edge, name)
    edge.refuseWhenDraining()
    if (request.body instanceof LineBody) {
      const fixedTenant = headers['headrace-tenant'] === undefined ? undefined : tenant
      return answerBulk(edge, request.body.stream, reply, { command: name, tenant: fixedTenant, preference })
    }
    const id = readIdempotencyKey(headers['idempotency-key'])
    if (request.body === undefined) throw new HeadraceError('body-missing')
    try {
      return await answerOne(edge, reply, { command: name, input: request.body, id, tenant, preference })
    } catch (error) {
      throw asHeadraceError(error)
    }
  }
}

function statusOf(outcome: { readonly status: Outcome['status'] }): number {
  return outcome.status === 'failed' ? 500 : 200
}

interface One {
  readonly command: string
  readonly input: unknown
  readonly id: string
  readonly tenant: string
  readonly preference: Preference
}

async function answerOne(edge: Edge, reply: FastifyReply, { command, input, id, tenant, preference }: One): Promise<string> {
  const receipt = await edge.gateway.take(command, input, { id, tenant })
  if (preference.applied !== undefined) reply.header('preference-applied', preference.applied)
  if (preference.waitMs > 0) {
    const done = await within(receipt.outcome, preference.waitMs)
    if (done !== late) return outcomeReply(reply, done, statusOf(done))
  }
  await receipt.durable()
  if (preference.waitMs > 0) {
    // A command whose batch was under way becomes durable by its outcome, which then is the better answer.
    const done = await Promise.race([receipt.outcome, stillLate])
    if (done !== late) return outcomeReply(reply, done, statusOf(done))
  }
  reply.header('location', outcomePath(edge.prefix, command, id))
  return pendingReply(reply, command, id)
}
