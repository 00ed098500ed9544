/** What a check of the doctor says. */
export type Level = 'ok' | 'info' | 'warn' | 'error'

export interface Finding {
  /** A stable name, for programs. */
  readonly check: string
  readonly level: Level
  /** What was found, in figures. */
  readonly found: string
  /** What to do about it; only for warnings and errors. */
  readonly remedy?: string
  /** Figures for programs. */
  readonly details?: Readonly<Record<string, unknown>>
}

export function finding(check: string, level: Level, found: string, remedy?: string, details?: Readonly<Record<string, unknown>>): Finding {
  return { check, level, found, ...(remedy === undefined ? {} : { remedy }), ...(details === undefined ? {} : { details }) }
}
