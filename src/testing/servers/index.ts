/** Real servers for tests: started on free ports in temporary folders, gone afterwards. */
export { findProgram, type ServerKind, serverMissing } from './binaries.ts'
export { type MariadbServerOptions, startMariadb } from './mariadb.ts'
export { type MemcachedServerOptions, startMemcached } from './memcached.ts'
export { type PostgresServerOptions, startPostgres } from './postgres.ts'
export { type RabbitmqServer, type RabbitmqServerOptions, startRabbitmq } from './rabbitmq.ts'
export { type RedisServerOptions, startRedis } from './redis.ts'
export { freePort, type Server } from './server-process.ts'
