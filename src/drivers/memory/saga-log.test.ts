import { describe, it } from 'vitest'
import { sagaLogConformance } from '../../testing/saga-log-conformance.ts'
import { MemorySagaStore, memorySagaLog } from './saga-log.ts'

const store = new MemorySagaStore()
sagaLogConformance({ describe, it }, 'memory', { open: async () => memorySagaLog({ store }) })
