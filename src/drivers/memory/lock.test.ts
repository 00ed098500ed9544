import { describe, it } from 'vitest'
import { lockConformance } from '../../testing/lock-conformance.ts'
import { MemoryLockStore, memoryLocks } from './lock.ts'

const store = new MemoryLockStore()

lockConformance({ describe, it }, 'memory', {
  open: async (options) => memoryLocks({ store, ...options }),
  crash: (engine) => engine.close(),
})
