/**
 * Which server programs this machine has. A test that needs a missing one is
 * skipped with the name of the package that brings it; on CI it fails instead,
 * so that a green run means that the servers were there.
 */
import { accessSync, constants, readdirSync } from 'node:fs'
import { delimiter, join } from 'node:path'

export type ServerKind = 'redis' | 'postgres' | 'mariadb' | 'memcached' | 'rabbitmq'

interface Program {
  readonly programs: readonly string[]
  readonly debianPackage: string
}

const table: Readonly<Record<ServerKind, Program>> = {
  redis: { programs: ['redis-server'], debianPackage: 'redis-server' },
  postgres: { programs: ['postgres', 'initdb'], debianPackage: 'postgresql' },
  mariadb: { programs: ['mariadbd', 'mariadb-install-db'], debianPackage: 'mariadb-server' },
  memcached: { programs: ['memcached'], debianPackage: 'memcached' },
  rabbitmq: { programs: ['rabbitmq-server', 'rabbitmqctl', 'epmd'], debianPackage: 'rabbitmq-server' },
}

/**
 * Null when the programs of this server are here; else why its tests are
 * skipped, with the package to install. Throws on CI (`CI` set) instead.
 */
export function serverMissing(kind: ServerKind): string | null {
  const { programs, debianPackage } = table[kind]
  const absent = programs.filter((program) => findProgram(program) === null)
  if (absent.length === 0) return null
  const why = `${absent.join(' and ')} not found; on Debian: apt-get install ${debianPackage}`
  if (process.env['CI'] !== undefined && process.env['CI'] !== '') throw new Error(why)
  return why
}

/** The full path of a program, from PATH or from where Debian keeps it; null when there is none. */
export function findProgram(program: string): string | null {
  const folders = [...(process.env['PATH'] ?? '').split(delimiter), '/usr/sbin', ...postgresFolders()]
  for (const folder of folders) {
    if (folder === '') continue
    const path = join(folder, program)
    try {
      accessSync(path, constants.X_OK)
      return path
    } catch {
      // Not here: look on.
    }
  }
  return null
}

export function programPath(program: string): string {
  const path = findProgram(program)
  if (path === null) throw new Error(`${program} not found on PATH`)
  return path
}

/** Debian keeps initdb and postgres outside of PATH, one folder per version; the newest first. */
function postgresFolders(): string[] {
  const root = '/usr/lib/postgresql'
  try {
    return readdirSync(root)
      .sort((a, b) => Number(b) - Number(a))
      .map((version) => join(root, version, 'bin'))
  } catch {
    return []
  }
}
