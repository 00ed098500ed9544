/**
 * A process of the saga tests: starts runs, or ends what others left, as the
 * first argument says. It runs the build, and dies at the crash point that its
 * environment names. What the steps do is a row each in a SQLite file, behind the
 * barrier of a real service: once, whatever is called twice.
 */
import { DatabaseSync } from '@photostructure/sqlite'
import { z } from 'zod'
import { createOrchestrator, defineSaga, defineTcc, defineThreePhase, StepRefused } from '../../dist/transaction/index.js'
import { sqliteSagaLog } from '../../dist/drivers/sqlite/index.js'

const { mode, file, world, ids = [], kind = 'saga', node } = JSON.parse(process.argv[2])
const say = (line) => process.stdout.write(`${JSON.stringify(line)}\n`)

const database = new DatabaseSync(world)
database.exec('pragma busy_timeout = 5000')
database.exec('pragma journal_mode = wal')
database.exec('create table if not exists called (n integer primary key, run text, branch text, operation text, attempt integer)')
database.exec('create table if not exists held (run text, branch text, by_operation text, primary key (run, branch)) without rowid')
const called = database.prepare('insert into called (run, branch, operation, attempt) values (?, ?, ?, ?)')
const hold = database.prepare('insert into held (run, branch, by_operation) values (?, ?, ?) on conflict do nothing')
const drop = database.prepare('delete from held where run = ? and branch = ?')
const keep = database.prepare("update held set by_operation = 'confirmed' where run = ? and branch = ?")

const act =
  (change) =>
  async ({ id, branch, operation, attempt }) => {
    called.run(id, branch, operation, attempt)
    change(id, branch, operation)
    await new Promise(setImmediate)
    return `${branch}-${operation}`
  }
const forward = act((id, branch, operation) => hold.run(id, branch, operation))
const back = act((id, branch) => drop.run(id, branch))
const confirm = act((id, branch) => keep.run(id, branch))
// Runs whose id says so fail at their end.
const last = act((id, branch, operation) => {
  if (id.includes('bad')) throw new StepRefused('no')
  hold.run(id, branch, operation)
})

const quick = { retryBaseMs: 1, retryMaxMs: 5 }
const input = z.object({ id: z.string() })
const step = { do: forward, undo: back, ...quick }
const participant = (attempt) => ({ try: attempt, confirm, cancel: back, tryLimits: quick, finishLimits: quick })
const phases = (canCommit) => ({ canCommit, preCommit: act(() => undefined), doCommit: confirm, abort: back })
const definitions = {
  saga: defineSaga('saga', {
    input,
    steps: (saga) =>
      saga
        .step('a', step)
        .group((group) => group.step('b', step).step('c', step))
        .step('d', { ...step, do: last }),
  }),
  tcc: defineTcc('tcc', { input, participants: (tcc) => tcc.participant('a', participant(forward)).participant('b', participant(last)) }),
  'three-phase': defineThreePhase('phases', { input, participants: { a: phases(forward), b: phases(last) } }),
}

const log = sqliteSagaLog({ file })
const orchestrator = createOrchestrator({
  deployment: 'crash',
  log,
  runs: Object.values(definitions),
  node,
  pollMs: 10,
  beatMs: 50,
  leaseMs: 400,
})
const definition = definitions[kind]

if (mode === 'work') {
  for (const id of ids) {
    const run = await orchestrator.start(definition, id, { id })
    say({ started: id })
    await run.wait()
    say({ ended: id })
  }
} else {
  // Until nothing goes on any more.
  for (;;) {
    const open = await orchestrator.list({ status: 'running', limit: 1000 })
    if (open.length === 0) break
    await Promise.race([
      orchestrator.wait(definitions[open[0].kind], open[0].id),
      new Promise((resolve) => setTimeout(resolve, 1_000).unref()),
    ])
  }
}
await orchestrator.close()
await log.close()
