/** Decisions of global transactions whose home is a SQLite file: the journal of an app, or a file of a coordinator. */
import type { StatementSyncInstance } from '@photostructure/sqlite'
import type { Decision } from '../../contracts/participant.ts'

/** Statements of one connection, prepared once per text. */
export interface Statements {
  run(text: string): StatementSyncInstance
}

interface DecisionRow {
  readonly gid: string
  readonly verdict: Decision['verdict']
  readonly participants: string
  readonly decided_at: number
}

type DecisionTableName = 'decision' | 'headrace_decision'

export class DecisionTable {
  readonly #store: Statements
  readonly #table: DecisionTableName

  constructor(store: Statements, table: DecisionTableName = 'decision') {
    this.#store = store
    this.#table = table
  }

  /** The caller has looked that there is none, in the same transaction. */
  insert({ gid, verdict, participants, decidedAt }: Decision): void {
    this.#store
      .run(`insert into ${this.#table} (gid, verdict, participants, decided_at) values (?, ?, ?, ?)`)
      .run(gid, verdict, JSON.stringify(participants), decidedAt)
  }

  find(gid: string): Decision | null {
    const row = this.#store.run(`select * from ${this.#table} where gid = ?`).get(gid) as DecisionRow | undefined
    return row === undefined ? null : decisionOf(row)
  }

  /** Under gids that start with `prefix`, oldest first. */
  list(prefix: string, limit: number): Decision[] {
    // The range is read from the primary key; '~' comes after all that a gid is made of.
    const rows = this.#store
      .run(`select * from ${this.#table} where gid >= ? and gid < ? || '~' order by decided_at, gid limit ?`)
      .all(prefix, prefix, limit) as unknown as DecisionRow[]
    return rows.map(decisionOf)
  }

  forget(gids: readonly string[]): void {
    this.#store.run(`delete from ${this.#table} where gid in (select value from json_each(?))`).run(JSON.stringify(gids))
  }
}

function decisionOf({ gid, verdict, participants, decided_at }: DecisionRow): Decision {
  return { gid, verdict, participants: JSON.parse(participants) as string[], decidedAt: decided_at }
}
