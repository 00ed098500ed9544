/** `headrace queue`: how deep message queues are, what waits and what died, and changing that. */
import { type Command, Option } from 'commander'
import { act } from '../action.ts'
import { exitCodesHelp } from '../exit.ts'
import { lengthOfTime, wholeNumber } from '../flags.ts'
import { gathered } from '../participants.ts'
import type { ChangeFlags, PurgeFlags, RedriveFlags } from '../queues/change.ts'
import type { ListFlags } from '../queues/list.ts'
import type { PeekFlags } from '../queues/peek.ts'

const help = `
Where the queues are: postgres://…, amqp://… (or amqps://), or sqlite:./queue.sqlite
with the path of the file. Looking changes nothing there.

RabbitMQ lists no topics, and shows positions and epochs to nobody but the
process that consumes: name the topic, and its groups unless they are 'default'.

A password on a command line can be seen by others on the machine; one in the
environment variable HEADRACE_QUEUE_URL cannot.

Examples:
  headrace queue ls --url postgres://db/shop
  headrace queue ls orders --url amqp://127.0.0.1/shop --group billing --watch
  headrace queue peek orders --group billing --limit 3
  headrace queue peek orders --group billing --dead
  headrace queue redrive orders --group billing --all     after you have corrected the handler
  headrace queue purge orders --group billing
`

const listHelp = `
  depth     messages that are not acknowledged; delayed ones stand beside it
  dead      dead letters
  oldest    age of the oldest message that is not acknowledged
  in/s      messages that took their place in the order, a second
  out/s     messages that were acknowledged, a second
  growth/s  RabbitMQ: what waits now and did not before, a second
  consumed  partitions that a consumer has, of all

RabbitMQ counts what it has delivered to a consumer as gone, and tells no ages.
With --ages those of partitions that nobody consumes are found out by a look, which
holds all messages of such a partition for a moment, up to 65535 of them.

Examples:
  headrace queue ls --url sqlite:./queue.sqlite --partitions
  headrace queue ls --interval 0 --json | jq 'select(.dead > 0)'
${exitCodesHelp}`

const peekHelp = `
Without --partition it shows the first of all partitions together, oldest first.
On RabbitMQ a look holds all messages of a partition for a moment, up to 65535;
partitions that a process consumes cannot be looked into.

Examples:
  headrace queue peek orders --json | jq -r .body
  headrace queue peek orders --dead --json | jq -r .letter
${exitCodesHelp}`

const pauseHelp = `
It outlives restarts of consumers and engines. RabbitMQ keeps no pauses.
${exitCodesHelp}`

const purgeHelp = `
Acknowledges all that waits for the group, whoever consumes it. Delayed messages
and dead letters stay; --dead drops the dead letters instead, or those named.
On RabbitMQ, what was delivered to a consumer stays with it.

Examples:
  headrace queue purge orders --group billing
  headrace queue purge orders --dead --id 17 --yes
${exitCodesHelp}`

const redriveHelp = `
Puts dead letters back at the end of their queue, for their group alone, in the
order in which they were published first. What came after them on their key has
gone on meanwhile. At most 100000 at a time, on RabbitMQ 10000.

Exit code 1 when one that was named is none.

Examples:
  headrace queue redrive orders --id 17 --id 18
  headrace queue redrive orders --group billing --all --json
${exitCodesHelp}`

export function addQueue(program: Command): void {
  const group = program
    .command('queue')
    .description('message queues: list, peek, pause, resume, purge, redrive')
    .addHelpText('after', help + exitCodesHelp)

  placed(group.command('ls').description('how deep queues are, and how fast messages come and go').argument('[topic]', 'only this one'))
    .option('--group <name>', 'only this group; may be given again (all)', gathered)
    .option('--partitions', 'a row for each partition')
    .addOption(
      new Option('--interval <time>', 'between the two looks that tell rates; 0 looks once').argParser(lengthOfTime).default(1_000, '1s'),
    )
    .option('--ages', 'RabbitMQ: look at messages that nobody consumes, to tell how old the oldest is')
    .option('--watch', 'look again and again, until it is interrupted')
    .addHelpText('after', listHelp)
    .action(
      act<ListFlags>(async ({ terminal, options, words: [topic] }) => (await import('../queues/list.ts')).list(terminal, options, topic)),
    )

  ofGroup(group.command('peek').description('show what comes next, or what died; nothing is taken'))
    .option('--partition <n>', 'only this one', wholeNumber(0, 1_023))
    .option('--limit <n>', 'at most this many', wholeNumber(1, 1_000), 10)
    .option('--dead', 'show dead letters, in the order in which they died')
    .option('--after <letter>', 'with --dead: those after this one')
    .addHelpText('after', peekHelp)
    .action(
      act<PeekFlags>(async ({ terminal, options, words: [topic = ''] }) =>
        (await import('../queues/peek.ts')).peek(terminal, options, topic),
      ),
    )

  for (const verb of ['pause', 'resume'] as const) {
    const description = verb === 'pause' ? 'stop every consumer of a group from taking messages' : 'let them go on'
    ofGroup(group.command(verb).description(description))
      .addHelpText('after', pauseHelp)
      .action(
        act<ChangeFlags>(async ({ terminal, options, words: [topic = ''] }) =>
          (await import('../queues/change.ts')).setPaused(terminal, options, topic, verb === 'pause'),
        ),
      )
  }

  ofGroup(group.command('purge').description('give up all messages that wait for a group, or its dead letters'))
    .option('--dead', 'drop dead letters, and leave what waits')
    .option('--id <letter>', 'with --dead: only this one, as peek --dead shows it; may be given again', gathered)
    .option('--yes', 'do it without being asked')
    .addHelpText('after', purgeHelp)
    .action(
      act<PurgeFlags>(async ({ terminal, options, words: [topic = ''] }) =>
        (await import('../queues/change.ts')).purge(terminal, options, topic),
      ),
    )

  ofGroup(group.command('redrive').description('queue dead letters again, in order'))
    .option('--id <letter>', 'this one, as peek --dead shows it; may be given again', gathered)
    .option('--all', 'all of the group')
    .addHelpText('after', redriveHelp)
    .action(
      act<RedriveFlags>(async ({ terminal, options, words: [topic = ''] }) =>
        (await import('../queues/change.ts')).redrive(terminal, options, topic),
      ),
    )
}

function placed(command: Command): Command {
  return command
    .addOption(new Option('--url <place>', 'where the queues are: postgres://…, amqp://…, or sqlite:FILE').env('HEADRACE_QUEUE_URL'))
    .option('--schema <name>', 'postgres: the schema of its tables (public)')
    .option('--json', 'JSON on standard output, one line each')
}

const ofGroup = (command: Command): Command =>
  placed(command.argument('<topic>', 'as ls shows it')).option('--group <name>', "the group (the only one, or 'default')")
