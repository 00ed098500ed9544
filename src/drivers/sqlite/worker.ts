/** The thread of the embedded engine: one call at a time, in the order they came. */
import { parentPort, workerData } from 'node:worker_threads'
import type { EngineOptions } from './calls.ts'
import type { Engine } from './engine.ts'
import { type FromWorker, type ToWorker, toWire } from './port.ts'
import { openEngine } from './recovery.ts'

const port = parentPort
if (port === null) throw new Error('This file runs as a worker thread only.')
const send = (message: FromWorker): void => port.postMessage(message)

function serve(engine: Engine): void {
  port?.on('message', ({ number, name, parameters }: ToWorker) => {
    try {
      send({ number, reply: engine.answer({ name, parameters }) })
    } catch (error) {
      send({ number, error: toWire(error) })
    }
    if (name === 'close') port?.close()
  })
}

try {
  const { engine, opened } = openEngine(workerData as EngineOptions)
  serve(engine)
  send({ opened })
} catch (error) {
  send({ refused: toWire(error) })
}
