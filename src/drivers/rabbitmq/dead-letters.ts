/**
 * The dead letters of a group: a queue of the messages as they were, with why
 * and when they died in headers.
 *
 * Looking, redriving and dropping hold the letters for a moment, one at a time
 * in a process; another process that looks meanwhile sees fewer.
 */
import type { ConsumeMessage } from 'amqplib'
import { type DeadMessage, type DeathReason, type QueueMessage, reasonCharactersMax } from '../../contracts/queue.ts'
import { HeadraceError } from '../../contracts/errors.ts'
import { Mutex } from '../../std/mutex.ts'
import { browse, browseMax, type Forget, stateOf } from './browse.ts'
import { withChannel } from './calls.ts'
import type { Outgoing } from './publisher.ts'
import type { TokenHost } from './token.ts'
import { deadName, partitionName } from './topology.ts'
import { firstHeader, headerNumber, headerText, messageFrom, propertiesAgain, propertiesOf, redrivenHeader } from './wire.ts'

const letterHeader = 'headrace:letter'
const partitionHeader = 'headrace:partition'
const positionHeader = 'headrace:position'
const codeHeader = 'headrace:death-code'
const reasonHeader = 'headrace:death-message'
const attemptsHeader = 'headrace:attempts'
const diedHeader = 'headrace:died-at'

/** What a letter has and its message has not. */
const letterOnly = Object.fromEntries(
  [letterHeader, partitionHeader, positionHeader, codeHeader, reasonHeader, attemptsHeader, diedHeader].map((name) => [name, undefined]),
)

/** How long a count of letters by partition is good while their number stays, in milliseconds. */
const countedMsMax = 30_000

export interface DeadLettersHost extends TokenHost {
  readonly name: string
  readonly partitions: number
}

interface Letter {
  readonly raw: ConsumeMessage
  readonly letter: string
  readonly partition: number
}

export class DeadLetters {
  readonly #host: DeadLettersHost
  readonly #queue: string
  readonly #group: string
  readonly #turn = new Mutex()
  #counted: { readonly ready: number; readonly counts: Map<number, number>; readonly at: number } | null = null

  constructor(host: DeadLettersHost, group: string) {
    this.#host = host
    this.#group = group
    this.#queue = deadName(host.name, group)
  }

  /** Writes a letter durably. `raw` is the message as it came, when it says more than ours. */
  async bury(message: QueueMessage, reason: DeathReason, raw: ConsumeMessage | null): Promise<void> {
    this.#counted = null
    const { partition, position, redriven } = message
    const death: Record<string, string> = {
      [letterHeader]: `${partition}-${position}`,
      [partitionHeader]: String(partition),
      [positionHeader]: String(position),
      [codeHeader]: reason.code,
      [reasonHeader]: reason.message.slice(0, reasonCharactersMax),
      [attemptsHeader]: String(reason.attempts),
      [diedHeader]: String(Date.now()),
      [firstHeader]: (raw === null ? undefined : headerText(raw, firstHeader)) ?? String(position),
      [redrivenHeader]: String(redriven),
    }
    const ours = propertiesOf(message)
    const properties = raw === null ? { ...ours, headers: { ...ours.headers, ...death } } : propertiesAgain(raw, death)
    await this.#publish([
      { exchange: '', routingKey: this.#queue, content: raw === null ? Buffer.from(message.body) : raw.content, properties },
    ])
  }

  /** Letters after the one named, in the order in which they died. */
  async list(after: string | undefined, limit: number): Promise<DeadMessage[]> {
    return this.#look(after === undefined ? limit : browseMax, async (letters) => {
      const from = after === undefined ? 0 : letters.findIndex(({ letter }) => letter === after) + 1
      if (after !== undefined && from === 0) return []
      return letters.slice(from, from + limit).map((letter) => this.#read(letter))
    })
  }

  /** How many letters each partition has, of the first `browseMax`. */
  async counts(): Promise<Map<number, number>> {
    const { consuming, options } = this.#host
    const counts = new Map<number, number>()
    const { ready } = await withChannel(consuming, options, (channel) => stateOf(channel, options, this.#queue))
    if (ready === 0) return counts
    // A look carries every letter over: who counts again and again, as metrics do, is answered from the last one.
    const last = this.#counted
    if (last?.ready === ready && performance.now() - last.at < countedMsMax) return last.counts
    await this.#look(browseMax, async (letters) => {
      for (const { partition } of letters) counts.set(partition, (counts.get(partition) ?? 0) + 1)
    })
    this.#counted = { ready, counts, at: performance.now() }
    return counts
  }

  redrive(names: readonly string[] | undefined, limit: number): Promise<number> {
    return this.#look(names === undefined ? limit : browseMax, async (letters, forget) => {
      const chosen = letters
        .filter(({ letter }) => names === undefined || names.includes(letter))
        .map((letter) => ({ ...letter, first: headerNumber(letter.raw, firstHeader) ?? 0 }))
        .sort((a, b) => a.first - b.first)
        .slice(0, limit)
      await this.#publish(
        chosen.map(({ raw, partition }) => ({
          exchange: '',
          routingKey: partitionName(this.#host.name, this.#group, partition),
          content: raw.content,
          properties: propertiesAgain(raw, { ...letterOnly, [redrivenHeader]: String((headerNumber(raw, redrivenHeader) ?? 0) + 1) }),
        })),
      )
      // Only now that they are in their queue: a crash in between gives them twice, under their ids.
      await forget(chosen.map(({ raw }) => raw))
      return chosen.length
    })
  }

  drop(names: readonly string[]): Promise<number> {
    return this.#look(browseMax, async (letters, forget) => {
      const chosen = letters.filter(({ letter }) => names.includes(letter)).map(({ raw }) => raw)
      await forget(chosen)
      return chosen.length
    })
  }

  async #look<T>(limit: number, run: (letters: readonly Letter[], forget: Forget) => Promise<T>): Promise<T> {
    const { consuming, options } = this.#host
    await this.#turn.acquire()
    try {
      return await browse(consuming, options, this.#queue, limit, (messages, forget) =>
        run(
          messages.map((raw, index) => this.#letter(raw, index)),
          (gone) => {
            this.#counted = null
            return forget(gone)
          },
        ),
      )
    } finally {
      this.#turn.release()
    }
  }

  async #publish(messages: readonly Outgoing[]): Promise<void> {
    const answers = await this.#host.publisher.send(messages)
    const refusal = answers.find((answer) => answer !== 'confirmed')
    if (refusal === undefined) return
    if (refusal === 'refused')
      throw new HeadraceError('queue-full', `RabbitMQ refused messages for '${messages[0]?.routingKey}': a policy bounds that queue.`)
    throw new HeadraceError(
      'topic-unknown',
      `The queue '${messages[0]?.routingKey}' is gone. Declare the topic '${this.#host.name}' again.`,
    )
  }

  /** Anybody may have put something here: what names no letter of ours is named by its place. */
  #letter(raw: ConsumeMessage, index: number): Letter {
    const partition = headerNumber(raw, partitionHeader) ?? 0
    return { raw, letter: headerText(raw, letterHeader) ?? `foreign-${index}`, partition: Math.min(partition, this.#host.partitions - 1) }
  }

  #read({ raw, letter, partition }: Letter): DeadMessage {
    return {
      letter,
      message: messageFrom(raw, partition, this.#host.partitions, headerNumber(raw, positionHeader) ?? 0),
      reason: {
        code: headerText(raw, codeHeader) ?? 'unknown',
        message: headerText(raw, reasonHeader) ?? '',
        attempts: headerNumber(raw, attemptsHeader) ?? 0,
      },
      diedAt: headerNumber(raw, diedHeader) ?? 0,
    }
  }
}
