/**
 * A process that publishes to a queue in a SQLite file, or consumes from it; a
 * test kills it at a system call.
 *
 *   argv  { file, topic, mode: 'append' | 'acknowledge', calls, size }
 *   out   { done: n }          after each call: how many calls have resolved
 *         { done: n, failed: code }  instead, when it was refused; it goes on with the next
 *
 * A call appends `size` messages, or takes as many and acknowledges them. Lines
 * go out by synchronous writes. Plain JavaScript on the built package, since
 * Node 20 runs no TypeScript.
 */
import { writeSync } from 'node:fs'
import { sqliteQueue } from 'headrace/sqlite'

const { file, topic: name, mode, calls, size } = JSON.parse(process.argv[2])
const engine = sqliteQueue({ file })
const topic = await engine.open(name)
const say = (line) => writeSync(1, `${JSON.stringify(line)}\n`)
say({ done: 0 })

if (mode === 'append') {
  let done = 0
  for (let call = 0; call < calls; call++) {
    const messages = Array.from({ length: size }, (_, index) => call * size + index).map((n) => ({
      partition: 0,
      key: `k${n % 3}`,
      id: `m-${n}`,
      headers: {},
      body: String(n),
      publishedAt: Date.now(),
      availableAt: null,
    }))
    try {
      await topic.append(messages)
      done += 1
      say({ done })
    } catch (error) {
      say({ done, failed: error.code })
    }
  }
} else {
  const { lease } = await topic.lease({ group: 'g', partition: 0, ttlMs: 60_000 })
  for (let call = 0; call < calls; call++) {
    const messages = await lease.take({ messagesMax: size, bytesMax: 2 ** 30, waitMs: 0 })
    await lease.acknowledge(messages.at(-1).position)
    say({ done: call + 1 })
  }
}
process.exit(0)
