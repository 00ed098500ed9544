/**
 * The write path over databases on servers, and single transactions over them,
 * against the plain drivers and against two phases written by hand.
 * `npm run bench -- transactions`.
 *
 * All contenders of the single transactions use one PostgreSQL and one MariaDB, each in databases of its
 * own, with as many transactions at once on rows that nobody else touches.
 */
import { randomUUID } from 'node:crypto'
import { mysql } from 'headrace/mysql'
import { postgres } from 'headrace/postgres'
import { type Coordinator, createCoordinator } from 'headrace/transaction'
import { bench, comparison, type Opening, perSecond, recordLatencies, type Sample } from './harness.ts'
import { pathComparisons } from './path/comparisons.ts'
import { onMariadb, onPostgres, type Transfer, twoPhases } from './transactions/by-hand.ts'
import { accounts, type Servers, sharedServers, type Urls } from './transactions/servers.ts'

const callers = 20

interface Applying {
  apply(transfer: Transfer): Promise<unknown>
  close(): Promise<unknown>
}

/** A contender: so many callers, each with its next transfer when the one before is through. */
function entry(servers: Servers, name: string, transfers: number, open: (urls: Urls) => Promise<Applying> | Applying): Opening {
  return async ({ quick }) => {
    const applying = await open(await servers.enter(`${name}_${randomUUID().slice(0, 8)}`))
    const total = quick ? 200 : transfers
    return {
      run: () => hammer(total, (transfer) => applying.apply(transfer)),
      async close() {
        await applying.close()
        await servers.leave()
      },
    }
  }
}

async function hammer(total: number, apply: (transfer: Transfer) => Promise<unknown>): Promise<Sample> {
  const latencies = recordLatencies()
  const run = randomUUID().slice(0, 8)
  const one = async (caller: number): Promise<void> => {
    for (let turn = 0; turn < total / callers; turn++) {
      const account = ((turn * callers) % accounts) + caller
      const started = performance.now()
      await apply({ id: `t${run}_${caller}_${turn}`, account })
      latencies.record(performance.now() - started)
    }
  }
  const value = await perSecond(total, () => Promise.all(Array.from({ length: callers }, (_, caller) => one(caller))))
  return { value, ...latencies.percentiles() }
}

type Name = keyof Urls

/** The same transfer through the coordinator. */
function coordinated(names: readonly Name[]): (urls: Urls) => Promise<Applying> {
  return async (urls) => {
    const handles = { stock: postgres('stock', { url: urls.stock }), wallet: mysql('wallet', { url: urls.wallet }) }
    for (const name of names) {
      const participant = await handles[name].connect()
      await participant.migrate()
      await participant.close()
    }
    const coordinator: Coordinator = await createCoordinator({
      deployment: 'bench',
      databases: names.map((name) => handles[name]),
      transactionsMax: callers,
    })
    const sign = { stock: -1, wallet: 1 }
    return {
      apply: ({ id, account }) =>
        coordinator.transaction({ databases: names }, (tx) =>
          Promise.all(
            names.map(async (name) => {
              const database = tx.database(name)
              await database.addMany('account', 'id', [{ id: account, balance: sign[name] }])
              await database.insertMany('entry', [{ id, account, amount: sign[name] }])
            }),
          ),
        ),
      close: () => coordinator.close(),
    }
  }
}

function oneDatabase(engine: string, name: Name, plain: (url: string, connections: number) => Applying) {
  const servers = sharedServers()
  const transfers = 3_000
  return comparison({
    unit: 'transactions/s',
    contenders: {
      headrace: entry(servers, 'ours', transfers, coordinated([name])),
      plain: entry(servers, 'plain', transfers, (urls) => plain(urls[name], callers)),
    },
    figures: [
      { name: `one ${engine}, through the coordinator`, of: 'headrace' },
      { name: `one ${engine}, plain driver`, of: 'plain' },
      { name: `one ${engine}, over the plain driver`, ratio: ['headrace', 'plain'], goal: { atLeast: 0.85 } },
    ],
  })
}

function twoDatabases() {
  const servers = sharedServers()
  const transfers = 2_000
  return comparison({
    unit: 'transactions/s',
    contenders: {
      headrace: entry(servers, 'ours', transfers, coordinated(['stock', 'wallet'])),
      unlogged: entry(servers, 'unlogged', transfers, (urls) => twoPhases(urls, callers, false)),
      logged: entry(servers, 'logged', transfers, (urls) => twoPhases(urls, callers, true)),
    },
    figures: [
      { name: 'PostgreSQL and MariaDB, through the coordinator', of: 'headrace' },
      { name: '… two phases by hand, with the decision on disk', of: 'logged' },
      { name: '… two phases by hand, no decision kept', of: 'unlogged' },
      { name: 'over two phases by hand, with the decision', ratio: ['headrace', 'logged'], goal: { atLeast: 1 } },
      { name: 'over two phases by hand, no decision kept', ratio: ['headrace', 'unlogged'], goal: { atLeast: 1 } },
    ],
  })
}

export default bench('transactions', {
  comparisons: [
    ...pathComparisons,
    oneDatabase('PostgreSQL', 'stock', onPostgres),
    oneDatabase('MariaDB', 'wallet', onMariadb),
    twoDatabases(),
  ],
})
