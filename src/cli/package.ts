/** The package that this command line belongs to: its root, its version, its entry points. */
import { existsSync, readFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

interface PackageDocument {
  readonly name: string
  readonly version: string
  readonly exports: Readonly<Record<string, string | { readonly default: string }>>
}

const here = dirname(fileURLToPath(import.meta.url))

export const packageRoot = findRoot(here)
const packageDocument = JSON.parse(readFileSync(join(packageRoot, 'package.json'), 'utf8')) as PackageDocument
export const version = packageDocument.version

/** The file that runs this command line, to start it again as another process. */
export const mainFile = join(here, existsSync(join(here, 'main.js')) ? 'main.js' : 'main.ts')

/**
 * The files behind 'headrace', 'headrace/sqlite' and so on, next to the running
 * code: what an app imports is then the same module as what the command line uses.
 */
export function entryFiles(): Record<string, string> {
  const code = join(here, '..')
  const extension = mainFile.endsWith('.ts') ? '.ts' : '.js'
  const files: Record<string, string> = {}
  for (const [subpath, target] of Object.entries(packageDocument.exports)) {
    const file = typeof target === 'string' ? target : target.default
    if (!file.startsWith('./dist/')) continue
    files[packageDocument.name + subpath.slice(1)] = join(code, file.slice('./dist/'.length).replace(/\.js$/, extension))
  }
  return files
}

function findRoot(from: string): string {
  for (let folder = from; ; folder = dirname(folder)) {
    const file = join(folder, 'package.json')
    if (existsSync(file) && (JSON.parse(readFileSync(file, 'utf8')) as { name?: string }).name === 'headrace') return folder
    if (folder === dirname(folder)) throw new Error(`${from} is not inside the package 'headrace'`)
  }
}
