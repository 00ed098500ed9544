/** The thread of the embedded engine: one call at a time, in the order they came; calls that came together are answered together. */
import { parentPort, workerData } from 'node:worker_threads'
import type { EngineOptions } from './calls.ts'
import type { Engine } from './engine.ts'
import { type Answer, type FromWorker, type NumberedCall, toWire } from './port.ts'
import { openEngine } from './recovery.ts'

const port = parentPort
if (port === null) throw new Error('This file runs as a worker thread only.')
const send = (message: FromWorker): void => port.postMessage(message)

function serve(engine: Engine): void {
  port?.on('message', (calls: readonly NumberedCall[]) => {
    send(calls.map((call) => answerTo(engine, call)))
    if (calls.some(({ name }) => name === 'close')) port?.close()
  })
}

function answerTo(engine: Engine, call: NumberedCall): Answer {
  const { number } = call
  try {
    return { number, reply: engine.answer(call) }
  } catch (error) {
    return { number, error: toWire(error) }
  }
}

try {
  const { engine, opened } = openEngine(workerData as EngineOptions)
  serve(engine)
  send({ opened })
} catch (error) {
  send({ refused: toWire(error) })
}
