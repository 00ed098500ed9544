/** The types of the columns of the app's tables: read once per table, and again when a statement shows that they have changed. */
import type { Connection } from './connection.ts'
import { type TableTypes, typesOf, typesQuery } from './verbs.ts'

/** Tables kept; an app has fewer. */
const tablesMax = 1_000

export class TypeCache {
  readonly #known = new Map<string, TableTypes>()

  /** `table` is quoted. Asked through the connection of the branch, which may be the only one there is. */
  async of(table: string, connection: Connection, deadlineMs: number): Promise<TableTypes> {
    const known = this.#known.get(table)
    if (known !== undefined) return known
    const { rows } = await connection.query(typesQuery, [table], 'statement', deadlineMs)
    const types = typesOf(rows)
    if (types.size > 0) {
      if (this.#known.size >= tablesMax) this.#known.clear()
      this.#known.set(table, types)
    }
    return types
  }

  forget(table: string): void {
    this.#known.delete(`"${table}"`)
  }
}
