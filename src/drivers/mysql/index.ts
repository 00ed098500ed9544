/** `headrace/mysql`: MySQL and MariaDB as a database of an app and a participant of transactions; the fence guard. */
export { mysqlFence, type MysqlFenceConnection, mysqlFenced, type MysqlFencePool, mysqlFenceSql } from './fence.ts'
export { mysql, type MysqlOptions } from './handle.ts'
