/**
 * A process of the transaction tests: does transfers, or recovers, as the first
 * argument says. It runs the build, and dies at the crash point that its
 * environment names.
 */
import { mysql } from '../../dist/drivers/mysql/index.js'
import { postgres } from '../../dist/drivers/postgres/index.js'
import { sqlite } from '../../dist/drivers/sqlite/index.js'
import { createCoordinator } from '../../dist/transaction/index.js'

const { mode, databases, home, transfers = 0, from = 0, limits = {}, faulty } = JSON.parse(process.argv[2])
const engines = { postgres, mysql, sqlite }
const handles = databases.map(({ name, engine, url }) => engines[engine](name, engine === 'sqlite' ? { file: url } : { url }))
const coordinator = await createCoordinator({
  deployment: 'crash',
  node: mode,
  databases: handles,
  recovery: false,
  graceMs: 0,
  forgetEveryMs: 1,
  ...(home === undefined ? {} : { home }),
  ...limits,
})
const say = (line) => process.stdout.write(`${JSON.stringify(line)}\n`)

if (mode === 'work') {
  const names = databases.map(({ name }) => name).filter((name) => name !== home)
  for (let number = from; number < from + transfers; number += 1) {
    const id = `t${number}`
    say({ begun: id })
    const transfer = async (tx) => {
      await Promise.all(
        names.map(async (name, index) => {
          const amount = index === 0 ? -(names.length - 1) : 1
          await tx.database(name).addMany('account', 'name', [{ name: 'x', balance: amount }])
          await tx.database(name).insertMany('entry', [{ id, amount }])
        }),
      )
    }
    try {
      await coordinator.transaction({ databases: names, retriesMax: 0 }, transfer)
      say({ done: id })
    } catch (error) {
      say({ failed: id, code: error.code ?? String(error) })
      if (faulty !== true) throw error
    }
  }
  // What a gentle end brings to disk is not looked at.
  if (faulty === true) process.exit(0)
} else {
  for (let pass = 0; pass < 3; pass += 1) say({ report: await coordinator.recover() })
}
await coordinator.close()
