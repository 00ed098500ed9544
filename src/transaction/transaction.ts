/** What the callback of a transaction sees: the databases it named, and savepoints over all of them. */
import { HeadraceError } from '../contracts/errors.ts'
import type { Transaction } from './coordinator-contract.ts'
import type { OpenTransaction } from './global-transaction.ts'

export function openFacade(tx: OpenTransaction, keys: ReadonlyMap<string, string>, attempt: number): Transaction {
  let saving = false
  const nameOf = (key: string): string => keys.get(key) ?? key
  return {
    gid: tx.gid,
    databases: Object.fromEntries([...keys].map(([key, name]) => [key, tx.database(name)])) as Transaction['databases'],
    get signal() {
      return tx.cutoff.signal
    },
    attempt,
    database: (key) => tx.database(nameOf(key)),
    client: (key) => tx.client(nameOf(key)),
    explain: () => tx.explain(),
    async savepoint(run) {
      if (saving) {
        throw new HeadraceError(
          'transaction-nested',
          'savepoint() was called while another is open. There is one level: await the other first.',
        )
      }
      saving = true
      try {
        await tx.savepoint()
        try {
          const value = await run()
          await tx.releaseSavepoint()
          return value
        } catch (error) {
          await tx.rollbackToSavepoint()
          await tx.releaseSavepoint()
          throw error
        }
      } finally {
        saving = false
      }
    },
  }
}
