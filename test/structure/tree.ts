/** The files of the repository, for the tests that hold its rules. */
import { readdirSync, readFileSync } from 'node:fs'
import path from 'node:path'
import { fileURLToPath } from 'node:url'

export const root = fileURLToPath(new URL('../..', import.meta.url))

export interface SourceFile {
  /** From the root of the repository, with slashes. */
  readonly name: string
  readonly text: string
}

/** Every file below a folder, with its text. */
export function filesOf(folder: string): SourceFile[] {
  return readdirSync(path.join(root, folder), { withFileTypes: true }).flatMap((entry) => {
    const name = `${folder}/${entry.name}`
    return entry.isDirectory() ? filesOf(name) : [{ name, text: readFileSync(path.join(root, name), 'utf8') }]
  })
}

/** The source of the package: TypeScript, no tests. */
export function sources(): SourceFile[] {
  const found = filesOf('src').filter(({ name }) => name.endsWith('.ts') && !/\.(test|test-d|bench)\.ts$/.test(name))
  if (found.length === 0) throw new Error('no source was found: these tests would hold nothing')
  return found
}

export const packageJson = JSON.parse(readFileSync(path.join(root, 'package.json'), 'utf8')) as {
  readonly exports: Readonly<Record<string, string | { readonly types: string; readonly default: string }>>
}
