/**
 * A consumer of RabbitMQ that a test kills: takes a batch, acknowledges the
 * first three, says so, and then works on the rest for ever.
 *
 * Plain JavaScript on the built package, since Node 20 runs no TypeScript.
 */
import { writeSync } from 'node:fs'
import { rabbitmqQueue } from 'headrace/rabbitmq'

const { url, name, partitions, group, partition, epoch, count } = JSON.parse(process.argv[2])
const topic = await rabbitmqQueue({ url }).declare({ name, partitions, groups: [group], messagesMax: 1_000_000 })
const { lease } = await topic.lease({ group, partition, ttlMs: 60_000, epoch })
const taken = []
while (taken.length < count) taken.push(...(await lease.take({ messagesMax: count, bytesMax: 2 ** 30, waitMs: 10_000 })))
await lease.acknowledge(taken[2].position)
writeSync(1, `${JSON.stringify({ taken: taken.map(({ body }) => Number(body)), position: taken[2].position })}\n`)
setInterval(() => {}, 1_000)
