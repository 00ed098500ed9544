/** `headrace/memory`: engines in the memory of one process. */
export { type MemoryLocksOptions, MemoryLockStore, type MemoryLockStoreOptions, memoryLocks } from './lock.ts'
export { memory, type MemoryHandle, MemoryParticipant } from './participant.ts'
export type { MemorySql, MemoryTables } from './participant-database.ts'
export type { MemoryCall, MemoryFault, MemoryOptions } from './participant-options.ts'
export { MemoryStore, type MemoryTable } from './participant-store.ts'
export {
  type MemorySagaLog,
  type MemorySagaLogOptions,
  MemorySagaStore,
  memorySagaLog,
  type SagaLogCall,
  type SagaLogFault,
} from './saga-log.ts'
