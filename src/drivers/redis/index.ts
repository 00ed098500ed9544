/** `headrace/redis`: what Headrace can keep in Redis or Valkey. */
export { type RedisCacheOptions, redisCache } from './cache.ts'
export { type RedisCacheBusOptions, redisCacheBus } from './cache-bus.ts'
export type { RedisConnectionOptions } from './connection.ts'
export { type RedisLocksOptions, redisLocks } from './lock.ts'
