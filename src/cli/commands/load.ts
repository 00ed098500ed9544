/** `headrace load`: sends many commands and queries to a running node and tells what became of them. */
import { type Command, Option } from 'commander'
import { act } from '../action.ts'
import { exitCodesHelp } from '../exit.ts'
import { address, lengthOfTime, share, wholeNumber } from '../flags.ts'
import type { LoadFlags } from '../load/run.ts'
import { defaultUrl } from '../remote.ts'

const help = `
Inputs come from one of
  --input      a JSON template. {i} counts the commands; a text may hold
               arithmetic and random choices:
               {i % 1000}  {random(1, 5)}  {zipf(100)}  {pick('a', 'b')}
  --generator  a module: export default (i, random) => ({ … }); null ends it
  --from       a file with one JSON input a line, or - for standard input

Without --rate each connection sends its next command when it has the answer
(closed loop). With --rate commands are due at fixed times, and latency counts
from then, also for those that had to wait for a slow answer (open loop).

With --query each command is followed by so many queries, over the same
connections. Their parameters are drawn like the inputs: from the same template
or generator, anew, those that the query has; or by --query-input. Without a
command there are queries alone.

The report puts what the node measured of itself (/metrics) beside what models
say: hit ratio of the cache, and what it leaves to the databases; batches, wait
and depth of the queue. Under overload there is no steady state, and it says so.

Commands that got no answer, or 429 or 503, are sent again with the same
Idempotency-Key; the server applies each of them once.

Examples:
  headrace load order.buy --requests 20000 --input '{"sku":"sku-{zipf(10)}","buyer":"b{i % 1000}","quantity":"{random(1, 5)}"}'
  headrace load order.buy --generator orders.ts --duration 30s --rate 2000
  headrace load order.buy --query stock.left --queries-per-command 10 --duration 20s --input '{"sku":"sku-{zipf(100)}","buyer":"b{i % 1000}","quantity":1}'
  headrace load --query stock.left --query-input '{"sku":"sku-{zipf(1000)}"}' --rate 5000 --duration 30s
  headrace load stock.put --from stock.ndjson --bulk
  generate | headrace load order.buy --from - --json | jq .throughput

Exit code 1 when a command failed, when a command or a query had a problem or no
answer, or when a repeat was answered otherwise. Rejections are answers like any other.
${exitCodesHelp}`

export function addLoad(program: Command): void {
  program
    .command('load')
    .description('send many commands and queries and tell what became of them')
    .argument('[command]', 'the name of the command, such as order.buy')
    .addOption(new Option('--url <address>', 'the node').env('HEADRACE_URL').default(defaultUrl).argParser(address))
    .option('--input <template>', 'the input, as a JSON template')
    .option('--generator <file>', 'a module that makes the inputs')
    .option('--from <file>', 'a file of inputs, one a line; - is standard input')
    .option('--query <name>', 'a query to ask beside the command, or alone, such as stock.left')
    .option('--query-input <template>', 'its parameters, as a JSON template (those of the inputs)')
    .option('--queries-per-command <n>', 'how many for each command (1)', wholeNumber(1, 10_000))
    .option(
      '-n, --requests <n>',
      'how many commands, or queries where there are no commands (10000, unless --duration or --from say otherwise)',
      wholeNumber(1),
    )
    .option('-d, --duration <time>', 'how long, such as 30s or 2m', lengthOfTime)
    .option('-c, --connections <n>', 'connections, each with one request at a time', wholeNumber(1, 10_000), 64)
    .option('-r, --rate <n>', 'commands (or queries alone) per second, whatever the answers (open loop)', wholeNumber(1, 1_000_000))
    .option('--repeat <share>', 'share of commands that are sent twice with the same Idempotency-Key, such as 0.1', share, 0)
    .option('--bulk [lines]', 'send NDJSON, this many commands in a request (500)', wholeNumber(1, 1_000_000))
    .option('--seed <n>', 'seed of everything random in the inputs and the repeats', wholeNumber(0))
    .option('--id-prefix <text>', 'what the Idempotency-Keys begin with (random)')
    .option('--retry-for <time>', 'how long a command without an answer is sent again', lengthOfTime, 30_000)
    .option('--timeout <time>', 'longest wait for an answer', lengthOfTime, 60_000)
    .option('--prefer <value>', "the Prefer header, such as respond-async or 'wait=2'")
    .option('--tenant <name>', 'whose commands they are')
    .option('--json', 'the summary as one JSON object')
    .addHelpText('after', help)
    .action(
      act<LoadFlags>(async ({ terminal, options, words }) => (await import('../load/run.ts')).load(terminal, options, words[0] ?? null)),
    )
}
