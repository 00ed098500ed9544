/**
 * Faults planted into a copy of the build, to see that the crash suite finds
 * them. Each is a few exact replacements of text: one that does not fit exactly
 * once is out of date, and says so, since it would plant nothing.
 */
import { cpSync, mkdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { builtDist, temporaryFolder } from './world.ts'

export interface Replacement {
  /** In dist. */
  readonly file: string
  readonly from: string
  readonly to: string
}

const root = fileURLToPath(new URL('../..', import.meta.url))

/** The folder of a build with the fault in it. */
export function planted(replacements: readonly Replacement[], atEnd: (clean: () => void) => void): string {
  const folder = temporaryFolder(atEnd)
  const dist = join(folder, 'dist')
  mkdirSync(dist)
  cpSync(builtDist, dist, { recursive: true, filter: (path) => !path.endsWith('.map') && !path.endsWith('.d.ts') })
  cpSync(join(root, 'package.json'), join(folder, 'package.json'))
  symlinkSync(join(root, 'node_modules'), join(folder, 'node_modules'))
  for (const { file, from, to } of replacements) {
    const path = join(dist, file)
    const text = readFileSync(path, 'utf8')
    const times = text.split(from).length - 1
    if (times !== 1)
      throw new Error(
        `The planted fault is out of date: dist/${file} has ${times} times ${JSON.stringify(from)}, where once is wanted. Write it anew.`,
      )
    writeFileSync(
      path,
      text.replace(from, () => to),
    )
  }
  return dist
}
