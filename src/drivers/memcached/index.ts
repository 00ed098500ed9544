/** `headrace/memcached`: the cache's shared tier on Memcached. */
export { memcachedCache } from './cache.ts'
export type { MemcachedOptions } from './connection.ts'
