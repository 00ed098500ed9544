/** Decisions of global transactions whose other databases are on servers: the journal is their home. */
import type { Decision } from '../../contracts/participant.ts'
import type { JournalStore } from './store.ts'

interface DecisionRow {
  readonly gid: string
  readonly verdict: Decision['verdict']
  readonly participants: string
  readonly decided_at: number
}

export class DecisionTable {
  readonly #store: JournalStore

  constructor(store: JournalStore) {
    this.#store = store
  }

  /** The caller has looked that there is none, in the same transaction. */
  insert({ gid, verdict, participants, decidedAt }: Decision): void {
    this.#store
      .run('insert into decision (gid, verdict, participants, decided_at) values (?, ?, ?, ?)')
      .run(gid, verdict, JSON.stringify(participants), decidedAt)
  }

  find(gid: string): Decision | null {
    const row = this.#store.run('select * from decision where gid = ?').get(gid) as DecisionRow | undefined
    return row === undefined ? null : decisionOf(row)
  }

  /** Under gids that start with `prefix`, oldest first. */
  list(prefix: string, limit: number): Decision[] {
    const rows = this.#store
      .run('select * from decision where substr(gid, 1, ?) = ? order by decided_at, gid limit ?')
      .all(prefix.length, prefix, limit) as unknown as DecisionRow[]
    return rows.map(decisionOf)
  }

  forget(gids: readonly string[]): void {
    this.#store.run('delete from decision where gid in (select value from json_each(?))').run(JSON.stringify(gids))
  }
}

function decisionOf({ gid, verdict, participants, decided_at }: DecisionRow): Decision {
  return { gid, verdict, participants: JSON.parse(participants) as string[], decidedAt: decided_at }
}
