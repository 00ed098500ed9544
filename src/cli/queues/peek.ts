/** What `headrace queue peek` shows: what comes next, or what died. Nothing is taken. */
import { HeadraceError } from '../../contracts/errors.ts'
import type { DeadMessage, QueueMessage, QueueTopic } from '../../contracts/queue.ts'
import { CliError, exitCodes } from '../exit.ts'
import { type Align, counted, duration, table, type Terminal, widthOf } from '../terminal.ts'
import { openGroup, type QueueFlags, withQueues } from './engine.ts'
import { shown } from './text.ts'

export interface PeekFlags extends QueueFlags {
  readonly group?: string
  readonly partition?: number
  readonly limit: number
  readonly dead?: boolean
  readonly after?: string
}

const keyCharacters = 24
const idCharacters = 36
/** Narrowest column for bodies and reasons. */
const bodyCharactersMin = 24

/** Resolves with the exit code. */
export function peek(terminal: Terminal, flags: PeekFlags, name: string): Promise<number> {
  if (flags.after !== undefined && flags.dead !== true)
    throw new CliError(exitCodes.usage, 'usage', '--after goes with --dead: it names a dead letter.')
  return withQueues(flags, async (engine) => {
    const { topic, group } = await openGroup(engine, name, flags.group)
    if (flags.partition !== undefined && flags.partition >= topic.partitions)
      throw new CliError(exitCodes.usage, 'usage', `The topic '${name}' has the partitions 0 to ${topic.partitions - 1}.`)
    return flags.dead === true ? deadLetters(terminal, flags, topic, group) : messages(terminal, flags, topic, group)
  })
}

async function messages(terminal: Terminal, { partition, limit }: PeekFlags, topic: QueueTopic, group: string): Promise<number> {
  const { next, hidden } =
    partition === undefined ? await fromAll(topic, group, limit) : { next: await topic.peek(group, partition, limit), hidden: [] }
  for (const message of next) terminal.document({ topic: topic.name, group, ...message })
  if (hidden.length > 0)
    terminal.note(
      `Not shown: partition ${hidden.join(', ')}. A process consumes ${hidden.length === 1 ? 'it' : 'them'}, and RabbitMQ shows nobody else what it has delivered.`,
    )
  if (next.length === 0) {
    terminal.print(hidden.length > 0 ? 'Nothing else waits.' : 'Nothing waits.')
    return exitCodes.ok
  }
  const again = next.some(({ redriven }) => redriven > 0)
  const rows = next.map((message) => [
    String(message.partition),
    String(message.position),
    shown(message.key, keyCharacters),
    shown(message.id, idCharacters),
    age(message.publishedAt),
    ...(again ? [message.redriven === 0 ? '' : counted(message.redriven, 'time')] : []),
  ])
  const bodies = next.map(({ body, malformed }) => (malformed === null ? body : `${malformed}: ${body}`))
  print(terminal, ['partition', 'position', 'key', 'id', 'age', ...(again ? ['redriven'] : [])], rows, ['right', 'right'], 'body', bodies)
  terminal.print()
  terminal.print(`${counted(next.length, 'message')} of ${topic.name} for ${group}; --json shows them whole.`)
  return exitCodes.ok
}

/** The first of all partitions together, oldest first; and the partitions that cannot be looked into. */
async function fromAll(
  topic: QueueTopic,
  group: string,
  limit: number,
): Promise<{ readonly next: readonly QueueMessage[]; readonly hidden: readonly number[] }> {
  let next: QueueMessage[] = []
  const hidden: number[] = []
  for (let partition = 0; partition < topic.partitions; partition++) {
    try {
      next = merged(next, await topic.peek(group, partition, limit)).slice(0, limit)
    } catch (error) {
      if (!HeadraceError.is(error) || error.code !== 'queue-unsupported') throw error
      hidden.push(partition)
    }
  }
  return { next, hidden }
}

/** By time, but never against the order of a partition: what was redriven is older than what stands before it. */
function merged(some: readonly QueueMessage[], others: readonly QueueMessage[]): QueueMessage[] {
  const all: QueueMessage[] = []
  let [left, right] = [0, 0]
  for (;;) {
    const [a, b] = [some[left], others[right]]
    if (a === undefined && b === undefined) return all
    const next = b === undefined || (a !== undefined && a.publishedAt <= b.publishedAt) ? (a as QueueMessage) : b
    all.push(next)
    if (next === a) left += 1
    else right += 1
  }
}

async function deadLetters(terminal: Terminal, { partition, limit, after }: PeekFlags, topic: QueueTopic, group: string): Promise<number> {
  // One more than is shown tells whether there are more.
  const found = await topic.deadLetters({ group, limit: limit + 1, ...(after === undefined ? {} : { after }) })
  const letters = found.slice(0, limit).filter(({ message }) => partition === undefined || message.partition === partition)
  for (const letter of letters) terminal.document({ topic: topic.name, group, ...letter })
  if (letters.length === 0) {
    terminal.print(after === undefined ? 'No dead letters.' : 'No dead letters after that one.')
    return exitCodes.ok
  }
  const rows = letters.map(({ letter, message, reason, diedAt }) => [
    letter,
    shown(message.key, keyCharacters),
    shown(message.id, idCharacters),
    terminal.style('red', shown(reason.code, idCharacters)),
    String(reason.attempts),
    age(diedAt),
  ])
  const reasons = letters.map(({ reason }: DeadMessage) => reason.message)
  print(
    terminal,
    ['letter', 'key', 'id', 'code', 'tries', 'died ago'],
    rows,
    ['right', 'left', 'left', 'left', 'right', 'right'],
    'reason',
    reasons,
  )
  terminal.print()
  terminal.print(
    found.length > limit
      ? `The first ${limit}; go on with --after ${found[limit - 1]?.letter}.`
      : `${counted(letters.length, 'dead letter')} of ${topic.name} for ${group}. headrace queue redrive ${topic.name} --id ${letters[0]?.letter} puts one back.`,
  )
  return exitCodes.ok
}

/** A table whose last column takes the width that is left. */
function print(
  terminal: Terminal,
  headings: readonly string[],
  rows: readonly (readonly string[])[],
  align: readonly Align[],
  last: string,
  texts: readonly string[],
): void {
  const taken = Math.max(...table([headings, ...rows], align).map(widthOf))
  const room = Math.max(bodyCharactersMin, terminal.columns - taken - 3)
  const whole = [
    [...headings, last].map((name) => terminal.style('dim', name)),
    ...rows.map((row, index) => [...row, shown(texts[index] ?? '', room)]),
  ]
  for (const line of table(whole, align)) terminal.print(line)
}

const age = (since: number): string => duration(Math.max(0, Date.now() - since))
