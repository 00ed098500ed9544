/** What `headrace queue pause`, `resume`, `purge` and `redrive` do. */
import type { QueueTopic } from '../../contracts/queue.ts'
import { confirmed } from '../confirm.ts'
import { CliError, exitCodes } from '../exit.ts'
import { count, counted, type Terminal } from '../terminal.ts'
import { openGroup, type QueueFlags, withQueues } from './engine.ts'

export interface ChangeFlags extends QueueFlags {
  readonly group?: string
}

export interface PurgeFlags extends ChangeFlags {
  readonly dead?: boolean
  readonly id?: readonly string[]
  readonly yes?: boolean
}

export interface RedriveFlags extends ChangeFlags {
  readonly id?: readonly string[]
  readonly all?: boolean
}

/** Dead letters that one command works on. */
const lettersMax = 100_000
/** Dead letters in one call to the engine. */
const callLettersMax = 10_000
/** Dead letters in one page of a listing. */
const pageLettersMax = 1_000

/** Resolves with the exit code. */
export function setPaused(terminal: Terminal, flags: ChangeFlags, name: string, paused: boolean): Promise<number> {
  return withQueues(flags, async (engine) => {
    if (!engine.capabilities.pauses)
      throw new CliError(
        exitCodes.failed,
        'queue-unsupported',
        'RabbitMQ keeps no pauses: a group is paused in the process that consumes it.',
        'Call pause() of its consumption there, or stop that process: its messages wait.',
      )
    const { topic, group } = await openGroup(engine, name, flags.group)
    const was = await topic.isPaused(group)
    await topic.setPaused(group, paused)
    terminal.document({ topic: name, group, paused, was })
    const already = was === paused ? 'was already ' : ''
    terminal.print(
      paused
        ? `${group} of ${name} ${already === '' ? 'is ' : already}paused: its consumers finish what they have, and take nothing more.`
        : `${group} of ${name} ${already === '' ? 'goes on' : 'was not paused'}.`,
    )
    return exitCodes.ok
  })
}

/** Resolves with the exit code. */
export function purge(terminal: Terminal, flags: PurgeFlags, name: string): Promise<number> {
  const { dead, id: ids, yes } = flags
  if (ids !== undefined && dead !== true) throw new CliError(exitCodes.usage, 'usage', '--id names dead letters: it goes with --dead.')
  return withQueues(flags, async (engine) => {
    const { topic, group } = await openGroup(engine, name, flags.group)
    if (dead === true) return dropLetters(terminal, topic, group, ids, yes)
    const { depth } = await totals(topic, group)
    if (depth === 0) return nothing(terminal, { topic: name, group, purged: 0 }, `Nothing waits for ${group} of ${name}.`)
    const what = `Purge ${counted(depth, 'message')} that ${depth === 1 ? 'waits' : 'wait'} for ${group} of ${name}`
    if (!(await confirmed(terminal, { what, yes }))) return exitCodes.failed
    const purged = await topic.purge(group)
    const left = await totals(topic, group)
    terminal.document({ topic: name, group, purged, left: left.depth, delayed: left.delayed, dead: left.dead })
    terminal.print(`Purged ${counted(purged, 'message')} of ${name} for ${group}.`)
    const stay = [
      left.depth === 0 ? '' : `${count(left.depth)} that came meanwhile, or that a consumer has`,
      left.delayed === 0 ? '' : `${count(left.delayed)} delayed`,
      left.dead === 0 ? '' : `${counted(left.dead, 'dead letter')} (purge --dead drops them)`,
    ].filter((text) => text !== '')
    if (stay.length > 0) terminal.print(`Still there: ${stay.join(', ')}.`)
    return exitCodes.ok
  })
}

async function dropLetters(
  terminal: Terminal,
  topic: QueueTopic,
  group: string,
  ids: readonly string[] | undefined,
  yes: boolean | undefined,
): Promise<number> {
  const letters = ids ?? (await allLetters(topic, group))
  const where = `${group} of ${topic.name}`
  if (letters.length === 0) return nothing(terminal, { topic: topic.name, group, dropped: 0 }, `${where} has no dead letters.`)
  if (!(await confirmed(terminal, { what: `Drop ${counted(letters.length, 'dead letter')} of ${where}`, yes }))) return exitCodes.failed
  let dropped = 0
  for (const part of parts(letters)) dropped += await topic.drop({ group, letters: part })
  const { dead } = await totals(topic, group)
  terminal.document({ topic: topic.name, group, dropped, dead })
  terminal.print(`Dropped ${counted(dropped, 'dead letter')} of ${where}.${dead === 0 ? '' : ` ${count(dead)} left.`}`)
  return ids === undefined ? exitCodes.ok : verdict(terminal, dropped, ids)
}

/** Resolves with the exit code. */
export function redrive(terminal: Terminal, flags: RedriveFlags, name: string): Promise<number> {
  const { id: ids, all } = flags
  if ((ids === undefined) === (all !== true))
    throw new CliError(
      exitCodes.usage,
      'usage',
      ids === undefined ? 'Which dead letters?' : '--id and --all exclude each other.',
      'Give --id for each, as peek --dead shows them, or --all.',
    )
  return withQueues(flags, async (engine) => {
    const { topic, group } = await openGroup(engine, name, flags.group)
    // Those that are there now: one that dies again meanwhile is not put back twice.
    const letters = ids ?? (await allLetters(topic, group))
    let redriven = 0
    for (;;) {
      // Always with all that are left: the engine puts them in the order of their first append.
      const moved = letters.length === 0 ? 0 : await topic.redrive({ group, letters, limit: callLettersMax })
      redriven += moved
      if (moved < callLettersMax) break
    }
    const { dead } = await totals(topic, group)
    terminal.document({ topic: name, group, redriven, dead })
    const where = `${group} of ${name}`
    terminal.print(
      letters.length === 0
        ? `${where} has no dead letters.`
        : `Redriven: ${counted(redriven, 'dead letter')} of ${where}, in the order of their first publication.${dead === 0 ? '' : ` ${count(dead)} left.`}`,
    )
    return ids === undefined ? exitCodes.ok : verdict(terminal, redriven, ids)
  })
}

/** Some that were named may be none. */
function verdict(terminal: Terminal, done: number, ids: readonly string[]): number {
  const asked = new Set(ids).size
  if (done === asked) return exitCodes.ok
  terminal.note(`${counted(asked - done, 'name')} of ${asked} named no dead letter of this group. headrace queue peek --dead shows them.`)
  return exitCodes.failed
}

function nothing(terminal: Terminal, document: unknown, words: string): number {
  terminal.document(document)
  terminal.print(words)
  return exitCodes.ok
}

async function totals(
  topic: QueueTopic,
  group: string,
): Promise<{ readonly depth: number; readonly delayed: number; readonly dead: number }> {
  const counts = await topic.counts(group)
  const sum = (read: (each: (typeof counts)[number]) => number): number => counts.reduce((total, each) => total + read(each), 0)
  return { depth: sum(({ depth }) => depth), delayed: sum(({ delayed }) => delayed), dead: sum(({ dead }) => dead) }
}

async function allLetters(topic: QueueTopic, group: string): Promise<string[]> {
  const letters: string[] = []
  while (letters.length < lettersMax) {
    const after = letters.at(-1)
    const page = await topic.deadLetters({ group, limit: pageLettersMax, ...(after === undefined ? {} : { after }) })
    letters.push(...page.map(({ letter }) => letter))
    if (page.length < pageLettersMax) break
  }
  return letters
}

function* parts(letters: readonly string[]): Iterable<readonly string[]> {
  for (let from = 0; from < letters.length; from += callLettersMax) yield letters.slice(from, from + callLettersMax)
}
