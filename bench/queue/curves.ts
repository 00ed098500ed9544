/** What is found by measurement against fixed values: each curve is one comparison, and its figures are its table. */
import { type Comparison, comparison, type FigureOptions, type Opening } from '../harness.ts'
import { measured, onPostgres, onRabbitmq } from './headrace.ts'
import { consuming, onServer, publishing } from './rounds.ts'
import { newDatabase, postgresql, rabbitmq } from './servers.ts'

const messages = 15_000
const sizes = [8, 32, 128, 512, 2_048]

function curve(name: string, open: (size: number | undefined) => Opening): Comparison {
  const contenders: Record<string, Opening> = { 'self-tuned': open(undefined) }
  for (const size of sizes) contenders[String(size)] = open(size)
  const fixed: FigureOptions<string>[] = sizes.map((size) => ({ name: `${name} ${size}`, of: String(size) }))
  return comparison({ unit: 'messages/s', contenders, figures: [{ name: `${name} self-tuned`, of: 'self-tuned' }, ...fixed] })
}

export function curves(): Comparison[] {
  const [broker, publishingDatabase, consumingDatabase] = [rabbitmq(), postgresql(), postgresql()]
  return [
    curve('RabbitMQ, publish, confirm window', (confirmWindow) =>
      onServer(
        broker,
        async (url) => measured(await onRabbitmq(url, {}, confirmWindow === undefined ? {} : { confirmWindow })),
        publishing(messages),
      ),
    ),
    curve('PostgreSQL, publish, batch', (appendMessagesMax) =>
      onServer(
        publishingDatabase,
        async (url) => measured(await onPostgres(await newDatabase(url), appendMessagesMax === undefined ? {} : { appendMessagesMax })),
        publishing(messages),
      ),
    ),
    curve('PostgreSQL, consume, prefetch', (prefetch) =>
      onServer(
        consumingDatabase,
        async (url) => measured(await onPostgres(await newDatabase(url)), prefetch === undefined ? {} : { prefetch }),
        consuming(messages),
      ),
    ),
  ]
}
