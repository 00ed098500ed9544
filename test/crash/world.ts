/** The little world of the crash tests: what is in the databases at first, and one folder per test. */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'

export interface World {
  readonly skus: readonly string[]
  readonly unitsPerSku: number
  readonly buyers: readonly string[]
  readonly balancePerBuyer: number
  readonly price: number
  /** A credit above it is rejected, after it has written. */
  readonly creditMax: number
}

const named = (prefix: string, count: number): string[] => Array.from({ length: count }, (_, index) => `${prefix}${index}`)

/** Small enough that a run meets sold-out stock and empty wallets. */
export const world: World = {
  skus: named('sku', 6),
  unitsPerSku: 60,
  buyers: named('buyer', 8),
  balancePerBuyer: 150,
  price: 3,
  creditMax: 50,
}

export const databaseNames = ['orders', 'stock', 'wallet'] as const

export type DatabaseName = (typeof databaseNames)[number]

/** Urls of the databases that are on servers; the others are SQLite files of the data directory. */
export type Places = Readonly<Partial<Record<DatabaseName, string>>>

/** The build that the tests run: dist, or the folder that HEADRACE_CRASH_DIST names. */
export const builtDist = process.env['HEADRACE_CRASH_DIST'] ?? fileURLToPath(new URL('../../dist', import.meta.url))

/** A new folder, removed when the test that asked for it has ended. */
export function temporaryFolder(atEnd: (clean: () => void) => void): string {
  const folder = mkdtempSync(join(tmpdir(), 'headrace-crash-'))
  atEnd(() => rmSync(folder, { recursive: true, force: true }))
  return folder
}
