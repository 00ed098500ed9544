/** `headrace/sqlite`: SQLite files as databases of an app or of a coordinator; locks and message queues between the processes of one machine; the fence guard. */
export { type SqliteOptions, sqlite } from './database.ts'
export { sqliteFence, sqliteFenced, type SqliteFenceDatabase, sqliteFenceSql } from './fence.ts'
export { type SqliteLocksOptions, sqliteLocks } from './lock.ts'
export { type SqliteSagaLogOptions, sqliteSagaLog, sqliteSagaSql } from './saga-log.ts'
export { type SqliteQueueOptions, sqliteQueue } from './queue.ts'
export { type SqliteTransactions, type SqliteTransactionsOptions, sqliteTransactions } from './queue-transact.ts'
