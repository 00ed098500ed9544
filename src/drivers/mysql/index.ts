/** `headrace/mysql`: what Headrace can keep in MySQL and MariaDB. */
export { mysqlFence, type MysqlFenceConnection, mysqlFenced, type MysqlFencePool, mysqlFenceSql } from './fence.ts'
