/**
 * Apps for the tests of the write path: real ones, on real SQLite files in a
 * temporary folder, stopped and removed after each test.
 */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { DatabaseSync } from '@photostructure/sqlite'
import { afterEach } from 'vitest'
import { z } from 'zod'
import { type DiagnosticEvents, type DiagnosticName, listen } from '../../src/contracts/diagnostics.ts'
import { sqlite } from '../../src/drivers/sqlite/index.ts'
import { type App, type AppOptions, accept, command, defineApp, HeadraceError, type OnDeadLetter, reject } from '../../src/index.ts'
import { type Deferred, deferred } from '../../src/std/deferred.ts'

const cleanups: (() => Promise<unknown> | unknown)[] = []

afterEach(async () => {
  for (const cleanup of cleanups.splice(0).reverse()) await cleanup()
})

/** Registers what the test must undo; the newest goes first. */
export function afterTest(cleanup: () => Promise<unknown> | unknown): void {
  cleanups.push(cleanup)
}

export function temporaryFolder(): string {
  const folder = mkdtempSync(join(tmpdir(), 'headrace-app-'))
  afterTest(() => rmSync(folder, { recursive: true, force: true }))
  return folder
}

/** Starts an app, and stops it after the test. */
export async function started<T extends App>(app: T): Promise<T> {
  afterTest(() => app.stop())
  await app.start()
  return app
}

/** Every event of a name from here on, until the end of the test. */
export function heard<Name extends DiagnosticName>(name: Name): DiagnosticEvents[Name][] {
  const events: DiagnosticEvents[Name][] = []
  afterTest(listen(name, (event) => events.push(event)))
  return events
}

/** Resolves at the next event of a name that fits. */
export function next<Name extends DiagnosticName>(
  name: Name,
  fits: (event: DiagnosticEvents[Name]) => boolean = () => true,
): Promise<DiagnosticEvents[Name]> {
  const seen = deferred<DiagnosticEvents[Name]>()
  const stop = listen(name, (event) => {
    if (!fits(event)) return
    stop()
    seen.resolve(event)
  })
  afterTest(stop)
  return seen.promise
}

/** The code that a promise is refused with; 'nothing' when it resolves. */
export async function codeOf(promise: Promise<unknown>): Promise<string> {
  try {
    await promise
    return 'nothing'
  } catch (error) {
    return HeadraceError.is(error) ? error.code : `not of the table: ${String(error)}`
  }
}

/** The error that a promise is refused with. */
export async function errorOf(promise: Promise<unknown>): Promise<HeadraceError> {
  try {
    await promise
  } catch (error) {
    if (HeadraceError.is(error)) return error
    throw error
  }
  throw new Error('It was not refused.')
}

/** Reads a database file from outside, as another program would. */
export function rowsOf<R = Record<string, unknown>>(file: string, text: string): R[] {
  const database = new DatabaseSync(file, { readOnly: true })
  try {
    return (database.prepare(text).all() as object[]).map((row) => ({ ...row })) as R[]
  } finally {
    database.close()
  }
}

/** Doors that a handler waits at until the test opens them. */
export class Gates {
  readonly #open = new Map<string, Deferred<void>>()
  readonly #reached = new Map<string, Deferred<void>>()

  async pass(name: string): Promise<void> {
    this.#of(this.#reached, name).resolve()
    await this.#of(this.#open, name).promise
  }

  open(name: string): void {
    this.#of(this.#open, name).resolve()
  }

  /** Resolves when a handler stands at the gate. */
  reached(name: string): Promise<void> {
    return this.#of(this.#reached, name).promise
  }

  #of(map: Map<string, Deferred<void>>, name: string): Deferred<void> {
    const known = map.get(name) ?? deferred<void>()
    map.set(name, known)
    return known
  }
}

/** What a note does when it is applied. */
export type Does = 'accept' | 'reject' | 'throw' | 'write and reject' | 'write and throw'

export interface Note {
  readonly key: string
  readonly value: number
}

export interface NoteContext extends Note {
  readonly id: string
  readonly position: number
}

export interface NotesOptions extends AppOptions {
  /** Decides what each note does; asked each time it is applied. Default: accept. */
  readonly does?: (note: NoteContext) => Does
  readonly retries?: number
  readonly onDeadLetter?: OnDeadLetter
  readonly timeoutMs?: number
}

const note = z.object({ key: z.string(), value: z.number() })

/**
 * An app that writes down what it applies, in two databases: `effect` in order
 * of application, `total` per key. The same in both forms: 'note.batch' is
 * load / decide / save, 'note.run' is run. 'gate.pass' stops the lane.
 */
export function notes({
  does = () => 'accept',
  retries = 3,
  onDeadLetter = 'skip',
  timeoutMs,
  dataDir = temporaryFolder(),
  ...limits
}: NotesOptions = {}) {
  const gates = new Gates()
  const book = sqlite('book', {
    schema: `create table if not exists effect (n integer primary key, id text not null, key text not null, value integer not null check (typeof(value) = 'integer'), position integer not null)`,
  })
  const sums = sqlite('sums', { schema: 'create table if not exists total (key text primary key not null, total integer not null)' })
  const shared = {
    input: note,
    key: (given: Note) => given.key,
    databases: { book, sums },
    retries,
    onDeadLetter,
    ...(timeoutMs === undefined ? {} : { timeoutMs }),
  }

  const batch = command('note.batch', {
    ...shared,
    load: async (commands, { sums }) =>
      new Map(
        (
          await sums.selectIn<{ key: string; total: number }>(
            'total',
            'key',
            commands.map(({ key }) => key),
          )
        ).map(({ key, total }) => [key, total]),
      ),
    decide(totals, { key, value }, { id, position }) {
      const what = does({ key, value, id, position })
      if (what === 'throw') throw new Error(`note ${value} is poisoned`)
      if (what === 'reject') return reject('not-wanted', `value ${value}`)
      totals.set(key, (totals.get(key) ?? 0) + value)
      if (what === 'write and reject') return reject('not-wanted', `value ${value}`)
      if (what === 'write and throw') throw new Error(`note ${value} is poisoned`)
      return accept({ total: totals.get(key) ?? 0 })
    },
    async save(totals, accepted, { book, sums }) {
      await book.insertMany(
        'effect',
        accepted.map(({ id, key, input, position }) => ({ id, key, value: input.value, position })),
      )
      await sums.upsertMany(
        'total',
        'key',
        [...new Set(accepted.map(({ key }) => key))].map((key) => ({ key, total: totals.get(key) ?? 0 })),
      )
    },
  })

  const run = command('note.run', {
    ...shared,
    async run({ input: { key, value }, id, position, databases: { book, sums } }) {
      const what = does({ key, value, id, position })
      if (what === 'throw') throw new Error(`note ${value} is poisoned`)
      if (what === 'reject') return reject('not-wanted', `value ${value}`)
      await book.insertMany('effect', [{ id, key, value, position }])
      await sums.upsertMany('total', 'key', [{ key, total: value }], { add: ['total'] })
      if (what === 'write and reject') return reject('not-wanted', `value ${value}`)
      if (what === 'write and throw') throw new Error(`note ${value} is poisoned`)
      const [row] = await sums.selectIn<{ total: number }>('total', 'key', [key])
      return accept({ total: row?.total ?? 0 })
    },
  })

  const pass = command('gate.pass', {
    input: z.object({ gate: z.string() }),
    key: ({ gate }) => `gate ${gate}`,
    timeoutMs: 60_000,
    run: async ({ input }) => {
      await gates.pass(input.gate)
      return accept()
    },
  })

  const app = defineApp({ name: 'notes', commands: [batch, run, pass], dataDir, ...limits })

  return {
    app,
    batch,
    run,
    pass,
    gates,
    dataDir,
    /** Stops the lane with a command; what comes meanwhile is one batch when the gate opens. */
    async hold(gate = 'hold'): Promise<() => Promise<void>> {
      const held = app.submit(pass, { gate })
      await gates.reached(gate)
      return async () => {
        gates.open(gate)
        await held
      }
    },
    /** What took effect, in order. */
    effects: () =>
      rowsOf<{ id: string; key: string; value: number; position: number }>(
        join(dataDir, 'book.sqlite'),
        'select id, key, value, position from effect order by n',
      ),
    totals: () =>
      Object.fromEntries(
        rowsOf<{ key: string; total: number }>(join(dataDir, 'sums.sqlite'), 'select key, total from total order by key').map(
          ({ key, total }) => [key, total],
        ),
      ),
  }
}

export type Notes = ReturnType<typeof notes>
