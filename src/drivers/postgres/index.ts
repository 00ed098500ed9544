/** `headrace/postgres`: PostgreSQL as a database of an app and of global transactions; locks; message queues; the fence guard. */
export { postgres } from './database.ts'
export { postgresFence, postgresFenced, type PostgresFenceClient, postgresFenceSql } from './fence.ts'
export { type PostgresLocksOptions, type PostgresPool, postgresLocks } from './lock.ts'
export { postgresLocksSql } from './lock-sql.ts'
export type { PostgresOptions } from './options.ts'
export { type PostgresQueueOptions, postgresQueue } from './queue.ts'
export { postgresQueueSql } from './queue-sql.ts'
