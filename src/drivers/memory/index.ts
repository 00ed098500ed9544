/** `headrace/memory`: engines in the memory of one process. */
export { type MemoryLocksOptions, MemoryLockStore, type MemoryLockStoreOptions, memoryLocks } from './lock.ts'
export {
  memory,
  type MemoryCall,
  type MemoryFault,
  type MemoryHandle,
  type MemoryOptions,
  MemoryParticipant,
} from './participant.ts'
export type { MemorySql, MemoryTables } from './participant-database.ts'
export { MemoryStore, type MemoryTable } from './participant-store.ts'
