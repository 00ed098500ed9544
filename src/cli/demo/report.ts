/** Shows the flash sale to a person, and sums it up for a program. */
import { amount, count, counted, duration, table, type Terminal } from '../terminal.ts'
import type { FlashSaleOptions, FlashSaleResult } from './flash-sale.ts'
import type { Kill } from './killer.ts'

/** The one object that --json prints. */
export function summaryOf({ verdict, load, kills, databaseKills, queueKills, plan }: FlashSaleResult): Readonly<Record<string, unknown>> {
  const { ok, accepted, rejected, sold, lost, duplicated, oversold, halfWritten } = verdict
  return {
    ok,
    orders: plan.orders,
    accepted,
    rejected,
    sold,
    lost,
    duplicated,
    oversold,
    halfWritten,
    kills: kills.length,
    databaseKills: databaseKills.length,
    queueKills: queueKills.length,
    throughput: Math.round(load.throughput),
    p50Ms: load.latencyMs.p50,
    p99Ms: load.latencyMs.p99,
    seed: plan.seed,
    unanswered: verdict.unanswered,
    unexpected: verdict.unexpected,
    disordered: verdict.disordered,
    wronglyRejected: verdict.wronglyRejected,
    revenue: verdict.revenue,
    rejections: load.answers.rejected,
    repeats: load.repeats,
    retries: load.retries,
    downMs: kills.map((kill) => Math.round(kill.downMs)),
    elapsedMs: Math.round(load.elapsedMs),
    checks: verdict.checks,
  }
}

export function printVerdict(
  terminal: Terminal,
  { verdict, load, kills, databaseKills, queueKills, plan, node }: FlashSaleResult,
  options: FlashSaleOptions,
): void {
  const dim = (text: string): string => terminal.style('dim', text)
  const rejections = Object.entries(load.answers.rejected).map(([code, value]) => `${count(value)} ${code}`)
  const retries = Object.values(load.retries).reduce((sum, value) => sum + value, 0)
  const rows = [
    ['answers', [`${count(verdict.accepted)} accepted`, ...rejections].join(', ')],
    ['sold', `${counted(verdict.sold, 'unit')} for ${amount(verdict.revenue)}`],
    [
      'speed',
      `${count(load.throughput)} orders per second; p50 ${duration(load.latencyMs.p50)}, p99 ${duration(load.latencyMs.p99)}, longest ${duration(load.latencyMs.max)}${kills.length + databaseKills.length + queueKills.length > 0 ? ', restarts included' : ''}`,
    ],
    ['repeats', `${counted(load.repeats.sent, 'order')} sent twice with the same Idempotency-Key`],
  ]
  const killed = (of: readonly Kill[]): string => {
    const moments = of.map((kill) => `${Math.round((kill.at / plan.orders) * 100)} %`).join(', ')
    return `SIGKILL at ${moments}; back after ${duration(Math.max(...of.map((kill) => kill.downMs)))} at most`
  }
  if (kills.length > 0) rows.push(['kills', `${killed(kills)}; ${count(retries)} requests sent again`])
  if (databaseKills.length > 0) rows.push(['databases', killed(databaseKills)])
  if (queueKills.length > 0) rows.push(['queue', killed(queueKills)])
  terminal.print()
  for (const line of table(rows.map(([name = '', value = '']) => [dim(name), value]))) terminal.print(line)

  terminal.print()
  terminal.print(
    verdict.ok
      ? terminal.style('green', terminal.style('bold', 'Verdict: it all adds up'))
      : terminal.style('red', terminal.style('bold', 'Verdict: it does not add up')),
  )
  const mark = (ok: boolean): string => (ok ? terminal.style('green', '✓') : terminal.style('red', '✗'))
  const lines = table(verdict.checks.map((check) => [mark(check.ok), check.name, dim(check.found)]))
  verdict.checks.forEach((check, index) => {
    terminal.print(lines[index])
    if (!check.ok && check.examples.length > 0) terminal.print(`       ${check.examples.join(', ')}`)
  })
  if (!verdict.ok) {
    terminal.print()
    terminal.print(`The databases are kept in ${options.dataDir} (server process ${node.pid}). Again with --seed ${plan.seed}.`)
  }
}

/** Lines to copy, on the sale as it now stands. */
export function printInvitation(terminal: Terminal, { node, places, state, plan }: FlashSaleResult): void {
  const dim = (text: string): string => terminal.style('dim', text)
  const item = [...state.items].sort(([, a], [, b]) => b.remaining - a.remaining)[0]?.[0] ?? plan.items[0]?.sku ?? 'sku-1'
  const buyer = [...state.wallets].sort(([, a], [, b]) => b.balance - a.balance)[0]?.[0] ?? 'buyer-1'
  const json = "-H 'content-type: application/json'"
  terminal.print()
  terminal.print(`The server is still up at ${terminal.style('cyan', node.url)}. Try, in another terminal:`)
  const tries: readonly (readonly [string, string])[] = [
    [
      'new stock',
      `curl ${node.url}/commands/stock.put -H 'idempotency-key: more-1' ${json} -d '{"sku":"${item}","price":500,"remaining":10}'`,
    ],
    [
      'an order; run it twice: the same answer, sold once',
      `curl ${node.url}/commands/order.buy -H 'idempotency-key: mine-1' ${json} -d '{"sku":"${item}","buyer":"${buyer}","quantity":2}'`,
    ],
    ['what is left', `curl '${node.url}/queries/stock.left?sku=${item}'`],
    ['what became of it', `curl ${node.url}/outcomes/order.buy/mine-1`],
    ['all there is', `curl ${node.url}/openapi.json`],
  ]
  for (const [about, line] of tries) {
    terminal.print()
    terminal.print(`  ${dim(`# ${about}`)}`)
    terminal.print(`  ${line}`)
  }
  terminal.print()
  terminal.print(dim(`Databases: ${places.about}. Ctrl-C stops the server.`))
}
