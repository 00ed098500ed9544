/** `headrace/cache`: a cache of up to three tiers that never serves a value older than its floor. */
export { type Cache, createCache } from './cache.ts'
export type { HotKey } from './hot-keys.ts'
export { type Load, type LoadContext, type LoadMany, type LoadManyContext, type Versioned, versioned } from './load.ts'
export type { Namespace } from './namespace.ts'
export type { CacheOptions, GetOptions, NamespaceOptions, SetOptions } from './options.ts'
export { json, type Serializer } from './serializer.ts'
export type { CacheStats } from './stats.ts'
export type { WarmOptions, WarmProgress, WarmReport } from './warm.ts'
