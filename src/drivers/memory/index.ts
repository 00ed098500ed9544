/** `headrace/memory`: engines in the memory of one process. */
export { type MemoryLocksOptions, MemoryLockStore, type MemoryLockStoreOptions, memoryLocks } from './lock.ts'
