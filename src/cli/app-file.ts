/** Loads the file of an app, TypeScript or JavaScript, and finds the app in it. */
import { existsSync } from 'node:fs'
import { resolve } from 'node:path'
import { createJiti } from 'jiti'
import { HeadraceError } from '../contracts/errors.ts'
import type { App } from '../pipeline/app-contract.ts'
import { CliError, exitCodes } from './exit.ts'
import { entryFiles } from './package.ts'

/**
 * Imports a module of the user. `headrace` and its subpaths are those of this
 * command line, whatever is installed beside the file: one copy in the process.
 */
export async function importFile(file: string): Promise<Readonly<Record<string, unknown>>> {
  const path = resolve(file)
  if (!existsSync(path)) throw new CliError(exitCodes.usage, 'file-missing', `There is no file ${path}.`)
  const jiti = createJiti(import.meta.url, { alias: entryFiles(), interopDefault: false })
  try {
    return await jiti.import<Record<string, unknown>>(path)
  } catch (error) {
    if (HeadraceError.is(error)) throw new CliError(exitCodes.usage, error.code, `${file}: ${error.message}`)
    throw new CliError(exitCodes.usage, 'file-failed', `${file} cannot be loaded: ${describe(error)}`)
  }
}

/** The app that a file exports: its default export, or the one named `app`. */
export async function loadApp(file: string): Promise<App> {
  const exported = await importFile(file)
  const app = appOf(exported)
  if (app !== null) return app
  const names = Object.keys(exported).join(', ')
  throw new CliError(
    exitCodes.usage,
    'app-missing',
    `${file} exports no app${names === '' ? '' : ` (it exports ${names})`}.`,
    'End it with: export default defineApp({ … })',
  )
}

/** The app among what a module exports; null when there is none. */
export function appOf(exported: Readonly<Record<string, unknown>>): App | null {
  return [exported['default'], exported['app']].find(isApp) ?? null
}

function isApp(value: unknown): value is App {
  return typeof value === 'object' && value !== null && (value as { kind?: unknown }).kind === 'headrace-app'
}

/** The message and the place: the first lines of the stack that are the user's. */
function describe(error: unknown): string {
  if (!(error instanceof Error)) return String(error)
  const places = (error.stack ?? '').split('\n').filter((line) => /^\s+at /.test(line) && !/node:|node_modules/.test(line))
  return [`${error.name}: ${error.message}`, ...places.slice(0, 5)].join('\n')
}
