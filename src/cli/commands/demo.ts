/** `headrace demo flash-sale`: shows on this machine what the promises are worth. */
import { join } from 'node:path'
import type { Command } from 'commander'
import { act } from '../action.ts'
import type { FlashSaleFlags } from '../demo/run.ts'
import { exitCodesHelp } from '../exit.ts'
import { wholeNumber } from '../flags.ts'
import { packageRoot } from '../package.ts'

const help = `
One order changes three SQLite databases: it takes from the stock, writes the
order, and takes from the wallet of the buyer. The server runs as a process of
its own; this one sends the orders over HTTP, a tenth of them twice with the
same Idempotency-Key, and kills the server on the way. Then it reads the three
databases with SQL of its own and compares them with what it was answered.

With --databases the stock and the orders are in the first of the places named,
and the wallets in the last: PostgreSQL or MariaDB, on servers that are started
for the sale in a temporary folder, or at the urls given. The app is the same.

With --queue the orders go through RabbitMQ, PostgreSQL or a SQLite file of its
own before they are applied.

Examples:
  headrace demo flash-sale
  headrace demo flash-sale --orders 100000 --skus 1 --kill 10
  headrace demo flash-sale --databases postgres,mariadb --kill 3 --kill-databases 2
  headrace demo flash-sale --databases postgres://me@db/sale,mysql://me@db/sale
  headrace demo flash-sale --queue rabbitmq --kill 2 --kill-queue 2
  headrace demo flash-sale --once --json | jq .ok

Exit code 0 when the verdict is clean, 1 when it is not.
${exitCodesHelp}`

const defaultApp = join(packageRoot, 'examples/flash-sale/app.ts')

export function addDemo(program: Command): void {
  const group = program.command('demo').description('see it at work: a sale, a flood of orders, a server that is killed')
  group
    .command('flash-sale')
    .description('sell out a stock over HTTP into three databases, kill the server, and check every order')
    .option('--orders <n>', 'how many orders', wholeNumber(1, 2_000_000), 10_000)
    .option('--skus <n>', 'how many SKUs; the first is the hot one', wholeNumber(1, 100_000), 10)
    .option('--stock <n>', 'units of each SKU (about half of what is asked for)', wholeNumber(0, 1_000_000_000))
    .option('--buyers <n>', 'how many buyers', wholeNumber(1, 1_000_000), 1_000)
    .option('--connections <n>', 'connections that send orders at once', wholeNumber(1, 10_000), 64)
    .option('--kill <n>', 'how often the server is killed with SIGKILL', wholeNumber(0, 1_000), 3)
    .option('--databases <places>', 'where the databases are: sqlite, postgres, mariadb or urls, with commas between (sqlite)')
    .option('--kill-databases <n>', 'how often a database server of the sale is killed with SIGKILL', wholeNumber(0, 1_000), 0)
    .option('--queue <place>', 'the queue that orders go through: sqlite, postgres, rabbitmq or a url (none)')
    .option('--kill-queue <n>', 'how often the server of the queue is killed with SIGKILL', wholeNumber(0, 1_000), 0)
    .option('--seed <n>', 'seed of orders, repeats and kills (random)', wholeNumber(0, 2 ** 32 - 1))
    .option('--data <folder>', 'where the databases live; must be new or empty (a temporary folder)')
    .option('--app <file>', 'another version of the app, to see what the verdict makes of it', defaultApp)
    .option('--once', 'end after the verdict instead of leaving the server up')
    .option('--json', 'the verdict as one JSON object')
    .addHelpText('after', help)
    .action(act<FlashSaleFlags>(async ({ terminal, options }) => (await import('../demo/run.ts')).flashSale(terminal, options)))
}
