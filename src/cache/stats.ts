/** What a cache counts of itself. All numbers only grow, but for the gauges at the end. */
export interface CacheStats {
  /** Gets answered from L1 with a fresh value. */
  hits: number
  /** Gets that had to wait or took a stale value. */
  misses: number
  /** Misses that joined a load under way instead of starting one. */
  joined: number
  /** Values taken from the shared store. */
  sharedHits: number
  /** Calls of the user's load, and those that failed. */
  loads: number
  loadErrors: number
  /** Loads repeated because what they read was below the floor. */
  repeats: number
  /** Results not stored because an invalidation came while they were loaded. */
  refusedFills: number
  /** Stale values served. */
  stale: number
  /** Loads begun early, by chance, before the end of a value. */
  early: number
  /** Floors raised and values dropped. */
  raises: number
  cuts: number
  /** How often L1 was emptied, because messages may have been missed. */
  flushes: number
  /** Entries pushed out of L1 to make room. */
  evictions: number
  /** Values that L1 or the shared store did not take for their size. */
  tooLarge: number
  /** Calls to the shared store that failed or were late, and those not made while it was out. */
  storeErrors: number
  storeSkipped: number
  /** Now: entries and bytes in L1, loads and gets under way. */
  entries: number
  bytes: number
  loading: number
  waiting: number
  /** The room of L1. */
  entriesMax: number
  bytesMax: number
}

export function newStats(): CacheStats {
  return {
    hits: 0,
    misses: 0,
    joined: 0,
    sharedHits: 0,
    loads: 0,
    loadErrors: 0,
    repeats: 0,
    refusedFills: 0,
    stale: 0,
    early: 0,
    raises: 0,
    cuts: 0,
    flushes: 0,
    evictions: 0,
    tooLarge: 0,
    storeErrors: 0,
    storeSkipped: 0,
    entries: 0,
    bytes: 0,
    loading: 0,
    waiting: 0,
    entriesMax: 0,
    bytesMax: 0,
  }
}
