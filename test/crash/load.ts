/**
 * What the crash tests send, and the memory of what was said about it.
 *
 * Each sender sends one command after the other, and the next one only once
 * the last is acknowledged: by its outcome, or, when enqueued, by "it would
 * survive a crash". When the process dies, whatever has no outcome is sent
 * again to the next one under the same id, as a client would.
 */
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import type { ErrorCode } from '../../src/contracts/errors.ts'
import type { DeadLetter } from '../../src/contracts/ledger.ts'
import { pause } from '../../src/std/backoff.ts'
import type { Random } from '../../src/std/random.ts'
import type { Answer, AppProcess, Submission } from './process.ts'
import { world } from './world.ts'

export interface LoadShape {
  readonly senders: number
  readonly commandsPerSender: number
  /** Share of commands that are enqueued; the rest wait for their outcome. */
  readonly enqueued: number
  /** Share of commands whose handler throws until the app is healed. */
  readonly poisoned: number
}

/** What the node may say instead of an outcome, when something befalls its disk. Without, every error is a finding. */
export interface Refusals {
  /** The client sends the same again a little later, to the same process. */
  readonly later?: ErrorCode
  /** The client sends the same again to the next process. */
  readonly next?: ErrorCode
}

export interface Sent {
  readonly submission: Submission
  readonly key: string
  readonly sender: string
  readonly number: number
  readonly enqueued: boolean
  readonly poisoned: boolean
  /** The process said that it would survive a crash. */
  durable: boolean
  /** The outcome as first heard. */
  body: string | null
  /** Outcomes heard later that are not the first, byte for byte. */
  readonly others: string[]
  /** Errors in place of an outcome. */
  readonly errors: string[]
  redriven: boolean
}

interface Sender {
  readonly commands: readonly Sent[]
  next: number
}

/** How long a round of redrives waits for outcomes before it looks for further dead letters, in milliseconds. */
const redrivePauseMs = 20
const healthyMsMax = 8_000
/** How long a client waits after a refusal before it sends again, in milliseconds. */
const againMs = 20

export class Load {
  readonly sent: readonly Sent[]
  /** Promises of the node that were seen broken while it ran. */
  readonly broken: string[] = []
  /** How often a command was refused for now. */
  refused = 0
  readonly #refusals: Refusals
  readonly #senders: readonly Sender[]
  /** Keys that a poisoned command blocks. */
  readonly #blocked: ReadonlySet<string>
  /** Commands that have an answer under way from the current process. */
  #open = new Map<Sent, Promise<void>>()

  constructor(random: Random, shape: LoadShape, refusals: Refusals = {}) {
    this.#refusals = refusals
    const drawn = Array.from({ length: shape.senders }, (_, index) => commandsOf(random.fork(`sender ${index}`), `s${index}`, shape))
    this.#blocked = new Set(drawn.flat().flatMap(({ poisoned, submission, key }) => (poisoned && blocks(submission.command) ? [key] : [])))
    // Nobody waits for the outcome of a command whose key is blocked until the end.
    this.#senders = drawn.map((commands) => ({
      commands: commands.map((sent) => (this.#blocked.has(sent.key) ? { ...sent, enqueued: true } : sent)),
      next: 0,
    }))
    this.sent = this.#senders.flatMap(({ commands }) => commands)
  }

  /** How many have an outcome, or were said to be safe. */
  get acknowledged(): number {
    return this.sent.filter(({ body, durable }) => body !== null || durable).length
  }

  /** Sends until all senders are through, or the process is gone. */
  async drive(process: AppProcess): Promise<void> {
    this.#open = new Map()
    for (const { commands, next } of this.#senders) {
      for (const sent of commands.slice(0, next)) if (sent.body === null) this.#wait(sent, process.submit(sent.submission))
    }
    await Promise.all(this.#senders.map((sender) => this.#send(process, sender)))
  }

  /**
   * Brings everything to its end: waits for all keys that nothing blocks, then
   * heals the app, redrives what blocks, asks for every outcome once more and
   * drops some of the dead letters. Returns early when the process is gone.
   */
  async finish(process: AppProcess, dataDir: string): Promise<void> {
    await this.#healthyKeysAreDone(process)
    if (process.over !== null) return
    heal(dataDir)
    await this.#redriveAll(process)
    await Promise.all(this.sent.map(async (sent) => this.#heard(sent, await process.submit(sent.submission))))
    if (process.over !== null) return
    for (const [index, { position }] of (await this.#dead(process)).entries())
      if (index % 2 === 0) await this.#unlessGone(process, process.ask({ do: 'drop', position }))
  }

  async #send(process: AppProcess, sender: Sender): Promise<void> {
    for (let sent = sender.commands[sender.next]; sent !== undefined; sent = sender.commands[sender.next]) {
      if (sent.enqueued) {
        const { durable, answer } = process.enqueue(sent.submission)
        this.#wait(sent, answer)
        if (await durable) sent.durable = true
        else if (!this.#isRefused(await answer, this.#refusals.later)) return
      } else {
        const answer = await process.submit(sent.submission)
        this.#heard(sent, answer)
        if (answer === 'lost' || this.#isRefused(answer, this.#refusals.next)) return
      }
      if (sent.durable || sent.body !== null || sent.errors.length > 0) sender.next += 1
      else await pause(againMs)
    }
  }

  #isRefused(answer: Answer, code: ErrorCode | undefined): boolean {
    return answer !== 'lost' && 'error' in answer && answer.error === code
  }

  #wait(sent: Sent, answer: Promise<Answer>): void {
    const waiting: Promise<void> = answer.then((heard) => {
      this.#heard(sent, heard)
      if (this.#open.get(sent) === waiting) this.#open.delete(sent)
    })
    this.#open.set(sent, waiting)
  }

  #heard(sent: Sent, answer: Answer): void {
    if (answer === 'lost' || 'answer' in answer || this.#isRefused(answer, this.#refusals.next)) return
    if (this.#isRefused(answer, this.#refusals.later)) this.#heardRefused(sent, answer as Answer & { readonly error: string })
    else if ('error' in answer) sent.errors.push(`${answer.error}: ${answer.message}`)
    else if (sent.body === null) sent.body = answer.outcome
    else if (sent.body !== answer.outcome) sent.others.push(answer.outcome)
  }

  /** Who is refused for now is told that nothing of it was kept. */
  #heardRefused({ submission: { id }, durable }: Sent, { error, known }: { readonly error: string; readonly known?: string }): void {
    this.refused += 1
    if (durable) this.broken.push(`1 acknowledged is durable: ${id} was said to be safe, and then refused with ${error}`)
    else if (known !== 'unknown')
      this.broken.push(`7 bounds everywhere: ${id} was refused with ${error}, and the node answers that it is ${known}`)
  }

  async #healthyKeysAreDone(process: AppProcess): Promise<void> {
    const healthy = [...this.#open].filter(([sent]) => !this.#blocked.has(sent.key))
    const late = pause(healthyMsMax).then(() => 'late' as const)
    const end = await Promise.race([Promise.all(healthy.map(([, answer]) => answer)), late, process.ended])
    if (end === 'late')
      this.broken.push(
        `9 a poisoned key harms only itself: ${healthy.filter(([sent]) => this.#open.has(sent)).length} commands of other keys had no outcome within ${healthyMsMax} ms`,
      )
  }

  async #redriveAll(process: AppProcess): Promise<void> {
    const byId = new Map(this.sent.map((sent) => [`${sent.submission.command}/default/${sent.submission.id}`, sent]))
    for (const started = performance.now(); process.over === null; ) {
      const blocking = (await this.#dead(process)).filter((letter) => letter.blocks)
      if (blocking.length === 0 && this.#open.size === 0) return
      if (performance.now() - started > healthyMsMax) {
        const waiting = [...this.#open.keys()].map(({ submission }) => submission.id)
        this.broken.push(
          `1 acknowledged is durable: ${waiting.join(', ')} had no outcome within ${healthyMsMax} ms after every blocking dead letter was redriven`,
        )
        return
      }
      for (const { id, position } of blocking) {
        const sent = byId.get(id)
        if (sent === undefined) throw new Error(`The dead letter ${id} was never sent`)
        // It is dead already, but the word of that may still be on its way.
        await this.#open.get(sent)
        sent.redriven = true
        sent.body = null
        await this.#unlessGone(process, process.ask({ do: 'redrive', position }))
        this.#wait(sent, process.submit(sent.submission))
      }
      await Promise.race([Promise.all(this.#open.values()), pause(redrivePauseMs)])
    }
  }

  async #dead(process: AppProcess): Promise<DeadLetter[]> {
    return ((await this.#unlessGone(process, process.ask({ do: 'dead' }))) ?? []) as DeadLetter[]
  }

  /** Null when the process ended meanwhile; any other failure is thrown. */
  async #unlessGone(process: AppProcess, asked: Promise<unknown>): Promise<unknown> {
    try {
      return await asked
    } catch (error) {
      if (process.over !== null) return null
      throw error
    }
  }
}

/** From now on poisoned commands succeed. */
export function heal(dataDir: string): void {
  writeFileSync(join(dataDir, 'healed'), '')
}

function blocks(command: string): boolean {
  return command === 'order.reserve' || command === 'wallet.grant'
}

function commandsOf(random: Random, sender: string, shape: LoadShape): Sent[] {
  return Array.from({ length: shape.commandsPerSender }, (_, number) => {
    const poisoned = random.chance(shape.poisoned)
    const { command, input, key } = random.chance(0.75) ? purchase(random, poisoned) : credit(random, poisoned)
    return {
      submission: { command, input: { ...input, sender, number }, id: `${sender}-${number}` },
      key,
      sender,
      number,
      enqueued: random.chance(shape.enqueued),
      poisoned,
      durable: false,
      body: null,
      others: [],
      errors: [],
      redriven: false,
    }
  })
}

function purchase(random: Random, poisoned: boolean): { command: string; input: object; key: string } {
  const sku = random.pick(world.skus)
  const poison = poisoned ? { poison: random.pick(['decide', 'save']) } : {}
  return {
    command: poisoned && random.chance(0.5) ? 'order.reserve' : random.pick(['order.buy', 'order.buy', 'order.reserve']),
    input: { sku, buyer: random.pick(world.buyers), units: random.between(1, 5), ...poison },
    key: sku,
  }
}

function credit(random: Random, poisoned: boolean): { command: string; input: object; key: string } {
  const buyer = random.pick(world.buyers)
  const poison = poisoned ? { poison: 'run' } : {}
  return {
    command: random.pick(['wallet.credit', 'wallet.grant']),
    input: { buyer, money: random.between(1, world.creditMax + 10), ...poison },
    key: `wallet:${buyer}`,
  }
}
