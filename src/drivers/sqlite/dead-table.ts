/** Dead letters: commands that were given up, with the reason. */
import type { DeadLetter } from '../../contracts/ledger.ts'
import type { JournalStore } from './store.ts'

type DeadRow = {
  readonly position: number
  readonly partition: number
  readonly key: string
  readonly id: string
  readonly command: string
  readonly tenant: string
  readonly input: string
  readonly digest: string
  readonly accepted_at: number
  readonly attempts: number
  readonly code: string
  readonly message: string
  readonly died_at: number
  readonly blocks: number
}

export type StoredDeadLetter = DeadLetter & { readonly digest: string }

export class DeadTable {
  readonly #store: JournalStore

  constructor(store: JournalStore) {
    this.#store = store
  }

  get size(): number {
    return (this.#store.run('select count(*) as n from dead').get() as { n: number }).n
  }

  insert(dead: StoredDeadLetter): void {
    const { position, partition, key, id, command, tenant, input, digest, acceptedAt, attempts, code, message, diedAt, blocks } = dead
    this.#store
      .run(
        'insert into dead (position, partition, key, id, command, tenant, input, digest, accepted_at, attempts, code, message, died_at, blocks) values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)',
      )
      .run(position, partition, key, id, command, tenant, input, digest, acceptedAt, attempts, code, message, diedAt, blocks ? 1 : 0)
  }

  list(after: number, limit: number): DeadLetter[] {
    const rows = this.#store.run('select * from dead where position > ? order by position limit ?').all(after, limit) as DeadRow[]
    return rows.map((row) => withoutDigest(deadLetterOf(row)))
  }

  find(position: number): StoredDeadLetter | null {
    const row = this.#store.run('select * from dead where position = ?').get(position) as DeadRow | undefined
    return row === undefined ? null : deadLetterOf(row)
  }

  delete(position: number): void {
    this.#store.run('delete from dead where position = ?').run(position)
  }

  blocks(key: string): boolean {
    return this.#store.run('select 1 from dead where key = ? and blocks = 1').get(key) !== undefined
  }
}

export function withoutDigest({ digest: _, ...letter }: StoredDeadLetter): DeadLetter {
  return letter
}

function deadLetterOf(row: DeadRow): StoredDeadLetter {
  const {
    position,
    partition,
    key,
    id,
    command,
    tenant,
    input,
    digest,
    accepted_at: acceptedAt,
    attempts,
    code,
    message,
    died_at: diedAt,
    blocks,
  } = row
  return { position, partition, key, id, command, tenant, input, digest, acceptedAt, attempts, code, message, diedAt, blocks: blocks === 1 }
}
