import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, describe, it } from 'vitest'
import { queueConformance } from '../../testing/queue-conformance.ts'
import { sqliteQueue, sqliteQueueCapabilities } from './queue.ts'

const directory = mkdtempSync(join(tmpdir(), 'headrace-test-queue-'))
const file = join(directory, 'queue.sqlite')
afterAll(() => rmSync(directory, { recursive: true }))

queueConformance({ describe, it }, 'sqlite', {
  capabilities: sqliteQueueCapabilities,
  open: async () => sqliteQueue({ file }),
  // Closing releases nothing: what is left looks as after kill -9.
  crash: (engine) => engine.close(),
})
