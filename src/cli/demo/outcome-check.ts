/** Asks /outcomes again for what the client was told, and looks up what it was not told. */
import { hash53 } from '../../std/hash.ts'
import { pause } from '../../std/backoff.ts'
import type { Random } from '../../std/random.ts'
import { answerOf, type Answer } from '../load/answer.ts'
import type { Transport } from '../load/transport.ts'
import { orderId, type SalePlan } from './plan.ts'
import type { SaleRecord } from './record.ts'
import type { OutcomeCheck } from './verdict.ts'

/** Orders that are asked for again; of more, a random choice of this many. */
const outcomesAskedMax = 20_000
/** Longest time for the outcome of one order to come, in milliseconds. */
const outcomeWaitMs = 30_000
const pollMs = 50

export interface OutcomeTarget {
  readonly transport: Transport
  readonly command: string
  readonly connections: number
}

/** Waits for the outcomes of orders that were answered 202, and enters them in the record. */
export async function resolvePending(target: OutcomeTarget, record: SaleRecord): Promise<void> {
  const pending = indexesOf(record, (kind) => kind === 'pending')
  const deadline = performance.now() + outcomeWaitMs
  await each(target, pending, async (index) => {
    let answer = await ask(target, index)
    while (answer.kind === 'pending' && performance.now() < deadline) {
      await pause(pollMs)
      answer = await ask(target, index)
    }
    record.set(index, answer.kind, answer.code, answer.position)
    record.bodyHashOf[index] = hash53(answer.body)
  })
}

/** Compares the outcomes with what the client was answered, byte for byte. */
export async function checkOutcomes(target: OutcomeTarget, plan: SalePlan, record: SaleRecord, random: Random): Promise<OutcomeCheck> {
  const decided = indexesOf(record, (kind) => kind === 'committed' || kind === 'rejected' || kind === 'failed')
  const chosen = plan.orders <= outcomesAskedMax ? decided : random.shuffle(decided).slice(0, outcomesAskedMax)
  const missing: string[] = []
  const different: string[] = []
  await each(target, chosen, async (index) => {
    const answer = await ask(target, index)
    const known = answer.kind === 'committed' || answer.kind === 'rejected' || answer.kind === 'failed'
    if (!known) missing.push(orderId(index))
    else if (hash53(answer.body) !== record.bodyHashOf[index]) different.push(orderId(index))
  })
  return { asked: chosen.length, missing, different }
}

async function ask({ transport, command }: OutcomeTarget, index: number): Promise<Answer> {
  const reply = await transport.send('GET', `/outcomes/${command}/${orderId(index)}`, [], null)
  return answerOf(reply.status, reply.body, null, null)
}

function indexesOf(record: SaleRecord, wanted: (kind: ReturnType<SaleRecord['kindOf']>) => boolean): number[] {
  const indexes: number[] = []
  for (let index = 0; index < record.orders; index++) if (wanted(record.kindOf(index))) indexes.push(index)
  return indexes
}

/** Some at a time, as many as there are connections. */
async function each({ connections }: OutcomeTarget, indexes: readonly number[], work: (index: number) => Promise<void>): Promise<void> {
  let next = 0
  const worker = async (): Promise<void> => {
    while (next < indexes.length) await work(indexes[next++] as number)
  }
  await Promise.all(Array.from({ length: Math.min(connections, indexes.length) }, worker))
}
