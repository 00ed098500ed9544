/** Messages as rows of the queue's tables, and back. */
import type { MessageHeaders, NewMessage, QueueMessage } from '../../contracts/queue.ts'
import type { QueueRow } from './queue-client.ts'

/** The fields of a message under short names, as the functions take them. */
export function rowOf(message: NewMessage): Readonly<Record<string, unknown>> {
  const { partition, id, key, headers, body, publishedAt, availableAt } = message
  return { p: partition, i: id, k: key, h: JSON.stringify(headers), b: body, t: publishedAt, a: availableAt }
}

export function messageIn(row: QueueRow, partition: number): QueueMessage {
  return {
    partition,
    position: Number(row['position']),
    key: String(row['key']),
    id: String(row['id']),
    headers: JSON.parse(String(row['headers'])) as MessageHeaders,
    body: String(row['body']),
    publishedAt: Number(row['published_at']),
    availableAt: row['available_at'] === null ? null : Number(row['available_at']),
    redriven: Number(row['redriven']),
    malformed: (row['malformed'] as string | null | undefined) ?? null,
  }
}
