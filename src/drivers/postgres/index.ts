/** `headrace/postgres`: what Headrace can keep in PostgreSQL. */
export { postgresFence, postgresFenced, type PostgresFenceClient, postgresFenceSql } from './fence.ts'
export { type PostgresLocksOptions, type PostgresPool, postgresLocks } from './lock.ts'
export { postgresLocksSql } from './lock-sql.ts'
