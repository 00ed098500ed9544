/**
 * A message queue on PostgreSQL. The protocol is in `queue-sql.ts`.
 *
 * Messages are durable when their transaction is committed with
 * `synchronous_commit=on`. It needs one session of its own to listen with: not
 * through a pooler in transaction mode.
 */
import { checkWhole } from '../../contracts/bounds.ts'
import { HeadraceError } from '../../contracts/errors.ts'
import {
  type Appended,
  checkQueueName,
  checkTopic,
  groupUnknown,
  type LeaseAnswer,
  type LeaseOptions,
  leaseTtlMsMax,
  leaseTtlMsMin,
  type NewMessage,
  partitionsDiffer,
  type QueueCapabilities,
  type QueueEngine,
  type QueueTopic,
  type TopicOptions,
  topicUnknown,
} from '../../contracts/queue.ts'
import { nearest } from '../../contracts/nearest.ts'
import { QueueAppends } from './queue-appends.ts'
import { QueueClient, queueClosed } from './queue-client.ts'
import { openPositions, PostgresLease } from './queue-lease.ts'
import { messageIn } from './queue-rows.ts'
import { declaration } from './queue-calls.ts'

export interface PostgresQueueOptions {
  /** `postgres://user:password@host:port/database`. */
  readonly url: string
  /** Where tables and functions live: a plain name. Default: 'public'. */
  readonly schema?: string
  /** Creates what is missing at the first call. Default: true. Otherwise run `postgresQueueSql()` in a migration. */
  readonly setUp?: boolean
  /** Longest time for one call, in milliseconds. Default: 5000. */
  readonly timeoutMs?: number
  /** Connections for calls. Default: 8. */
  readonly connectionsMax?: number
}

export const postgresQueueCapabilities: QueueCapabilities = Object.freeze({
  leases: true,
  stablePositions: true,
  delays: true,
  dedupes: true,
  exactBounds: true,
  remembersTopics: true,
  pauses: true,
  gaps: true,
})

const optionNames = ['url', 'schema', 'setUp', 'timeoutMs', 'connectionsMax']

/** A message queue on PostgreSQL: `createQueue({ engine: postgresQueue({ url }) })`. Throws 'option-invalid' and 'option-unknown'. */
export function postgresQueue(options: PostgresQueueOptions): QueueEngine {
  for (const option of Object.keys(options)) {
    if (optionNames.includes(option)) continue
    const near = nearest(option, optionNames)
    throw new HeadraceError(
      'option-unknown',
      `postgresQueue has no option '${option}'.${near === null ? '' : ` Did you mean '${near}'?`} Known: ${optionNames.join(', ')}.`,
    )
  }
  const { url, schema = 'public', setUp = true, timeoutMs = 5_000, connectionsMax = 8 } = options
  // The url itself is not shown: it may hold a password.
  if (!isUrl(url))
    throw new HeadraceError('option-invalid', 'The url of postgresQueue is not valid: use postgres://user:password@host:port/database.')
  if (!/^[a-z_][a-z0-9_]{0,62}$/.test(schema))
    throw new HeadraceError('option-invalid', 'schema must be a plain name: lower-case letters, digits and underscores.')
  if (typeof setUp !== 'boolean') throw new HeadraceError('option-invalid', 'setUp must be true or false.')
  checkWhole('timeoutMs', timeoutMs, 10, 600_000)
  checkWhole('connectionsMax', connectionsMax, 2, 1_000)
  return new PostgresQueueEngine(new QueueClient({ url, schema, setUp, timeoutMs, connectionsMax }))
}

class PostgresQueueEngine implements QueueEngine {
  readonly engine = 'postgres'
  readonly capabilities = postgresQueueCapabilities
  readonly #client: QueueClient
  /** One line of appends for each topic, so that calls keep their order whoever makes them. */
  readonly #appends = new Map<number, QueueAppends>()

  constructor(client: QueueClient) {
    this.#client = client
  }

  async declare(options: TopicOptions): Promise<QueueTopic> {
    if (this.#client.closed) throw queueClosed()
    checkTopic(options)
    const { rows } = await this.#client.query(this.#client.calls.declare, declaration(options))
    const known = Number(rows[0]?.['partitions'])
    if (known !== options.partitions) throw partitionsDiffer(options.name, known, options.partitions)
    return this.#topic(Number(rows[0]?.['n']), options.name, known)
  }

  async open(name: string): Promise<QueueTopic> {
    checkQueueName('topic', name)
    const { rows } = await this.#client.query(this.#client.calls.open, [name])
    if (rows[0] === undefined) throw topicUnknown(name)
    return this.#topic(Number(rows[0]['n']), name, Number(rows[0]['partitions']))
  }

  async topics(): Promise<string[]> {
    const { rows } = await this.#client.query(this.#client.calls.topics)
    return rows.map((row) => String(row['name']))
  }

  close(): Promise<void> {
    return this.#client.close()
  }

  #topic(n: number, name: string, partitions: number): QueueTopic {
    let appends = this.#appends.get(n)
    if (appends === undefined) {
      appends = new QueueAppends(this.#client, n)
      this.#appends.set(n, appends)
    }
    return new PostgresTopic(this.#client, { n, name, partitions }, appends)
  }
}

class PostgresTopic implements QueueTopic {
  readonly name: string
  readonly partitions: number
  readonly #n: number
  readonly #client: QueueClient
  readonly #appends: QueueAppends

  constructor(
    client: QueueClient,
    { n, name, partitions }: { readonly n: number; readonly name: string; readonly partitions: number },
    appends: QueueAppends,
  ) {
    this.name = name
    this.partitions = partitions
    this.#n = n
    this.#client = client
    this.#appends = appends
  }

  append(messages: readonly NewMessage[]): Promise<Appended[]> {
    return this.#appends.append(messages)
  }

  async lease(options: LeaseOptions): Promise<LeaseAnswer> {
    const { group, partition, ttlMs, epoch } = options
    checkQueueName('group', group)
    checkWhole('partition', partition, 0, this.partitions - 1)
    checkWhole('ttlMs', ttlMs, leaseTtlMsMin, leaseTtlMsMax)
    if (epoch !== undefined) checkWhole('epoch', epoch, 1, Number.MAX_SAFE_INTEGER)
    const { rows } = await this.#client.query(this.#client.calls.lease, [this.#n, partition, group, ttlMs, epoch ?? null])
    const [row] = rows
    if (row === undefined) throw groupUnknown(this.name, group)
    const known = Number(row['epoch'])
    if (row['state'] === 2) return { state: 'fenced', epoch: known }
    if (row['state'] === 1) return { state: 'held', endsInMs: Number(row['left_ms']) }
    const open = await openPositions(this.#client, this.#n, partition, group)
    const lease = new PostgresLease(this.#client, { n: this.#n, name: this.name }, options, known, Number(row['acked']), open)
    return { state: 'granted', lease }
  }

  async groups(): Promise<string[]> {
    const { rows } = await this.#client.query(this.#client.calls.groups, [this.#n])
    return rows.map((row) => String(row['name']))
  }

  async counts(group: string): ReturnType<QueueTopic['counts']> {
    const { rows } = await this.#client.query(this.#client.calls.counts, [this.#n, group])
    if (rows.length === 0) throw groupUnknown(this.name, group)
    return rows.map((row) => ({
      partition: Number(row['partition']),
      depth: Number(row['depth']),
      delayed: Number(row['delayed']),
      dead: Number(row['dead']),
      oldestPublishedAt: row['oldest'] === null ? null : Number(row['oldest']),
      acknowledged: Number(row['acked']),
      epoch: Number(row['epoch']),
      leased: row['leased'] === true,
    }))
  }

  async peek(group: string, partition: number, limit: number): ReturnType<QueueTopic['peek']> {
    await this.isPaused(group)
    const { rows } = await this.#client.query(this.#client.calls.peek, [this.#n, partition, group, limit])
    return rows.map((row) => messageIn(row, partition))
  }

  async deadLetters({ group, after = '0', limit }: Parameters<QueueTopic['deadLetters']>[0]): ReturnType<QueueTopic['deadLetters']> {
    await this.isPaused(group)
    const { rows } = await this.#client.query(this.#client.calls.dead, [this.#n, group, letterNumbers([after])[0] ?? '0', limit])
    return rows.map((row) => ({
      letter: String(row['n']),
      message: messageIn(row, Number(row['partition'])),
      reason: { code: String(row['code']), message: String(row['reason']), attempts: Number(row['attempts']) },
      diedAt: Number(row['died_at']),
    }))
  }

  async redrive({ group, letters, limit }: Parameters<QueueTopic['redrive']>[0]): Promise<number> {
    await this.isPaused(group)
    const { rows } = await this.#client.query(this.#client.calls.redrive, [
      this.#n,
      group,
      letters === undefined ? null : letterNumbers(letters),
      limit,
    ])
    return Number(rows[0]?.['moved'])
  }

  async drop({ group, letters }: Parameters<QueueTopic['drop']>[0]): Promise<number> {
    await this.isPaused(group)
    const { changed } = await this.#client.query(this.#client.calls.drop, [this.#n, group, letterNumbers(letters)])
    return changed
  }

  async purge(group: string): Promise<number> {
    await this.isPaused(group)
    const { rows } = await this.#client.query(this.#client.calls.purge, [this.#n, group])
    return Number(rows[0]?.['purged'])
  }

  async setPaused(group: string, paused: boolean): Promise<void> {
    const { rows } = await this.#client.query(this.#client.calls.setPaused, [this.#n, group, paused])
    if (rows.length === 0) throw groupUnknown(this.name, group)
  }

  async isPaused(group: string): Promise<boolean> {
    const { rows } = await this.#client.query(this.#client.calls.paused, [this.#n, group])
    if (rows[0] === undefined) throw groupUnknown(this.name, group)
    return rows[0]['paused'] === true
  }
}

/** Names of letters are numbers; others name none. */
const letterNumbers = (letters: readonly string[]): string[] => letters.filter((letter) => /^\d{1,18}$/.test(letter))

function isUrl(url: unknown): boolean {
  if (typeof url !== 'string') return false
  try {
    return /^postgres(ql)?:$/.test(new URL(url).protocol)
  } catch {
    // The error would show the password.
    return false
  }
}
