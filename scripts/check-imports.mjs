/**
 * Holds the direction of imports (.dependency-cruiser.cjs), and proves that it
 * looked: a tool that cannot read TypeScript reports no violation either.
 *
 * - Every .ts file on disk must be among the modules that were read, and every
 *   relative import that a plain search finds in it must be among its edges.
 * - Every rule is tried: a small tree with one planted violation a rule is
 *   read with the same rules, and each plant must be refused by its rule.
 */
import fs from 'node:fs'
import { createRequire } from 'node:module'
import path from 'node:path'
import { fileURLToPath } from 'node:url'
import { cruise } from 'dependency-cruiser'
import extractOptions from 'dependency-cruiser/config-utl/extract-depcruise-options'
import extractTSConfig from 'dependency-cruiser/config-utl/extract-ts-config'

const root = path.dirname(path.dirname(fileURLToPath(import.meta.url)))
const folders = ['src', 'examples', 'bench', 'test']

const rules = createRequire(import.meta.url)('../.dependency-cruiser.cjs')

/** Reads `baseDir` with the rules. Returns what was read and what is refused. */
async function read(baseDir, targets) {
  const options = await extractOptions(path.join(root, '.dependency-cruiser.cjs'))
  const result = await cruise(targets, { ...options, baseDir, validate: true }, undefined, {
    tsConfig: extractTSConfig(path.join(baseDir, 'tsconfig.json')),
  })
  if (typeof result.output === 'string') throw new Error('dependency-cruiser returned text instead of its findings')
  return { modules: result.output.modules, violations: result.output.summary.violations }
}

function typescriptFiles(folder) {
  if (!fs.existsSync(folder)) return []
  return fs.readdirSync(folder, { withFileTypes: true }).flatMap((entry) => {
    const name = path.join(folder, entry.name)
    if (entry.isDirectory()) return entry.name === 'node_modules' ? [] : typescriptFiles(name)
    return /(?<!\.d)\.ts$/.test(entry.name) ? [name] : []
  })
}

const importPattern =
  /^\s*(?:import|export)\b[^'"`;]*?\bfrom\s+'(\.{1,2}\/[^']+)'|^\s*import\s+'(\.{1,2}\/[^']+)'|\bimport\('(\.{1,2}\/[^']+)'\)/gm

/** The files of the tree and their relative imports, as a plain search finds them. (Tests hold programs as text, whose imports are none of theirs.) */
function searched() {
  return folders
    .flatMap((folder) => typescriptFiles(path.join(root, folder)))
    .map((file) => ({ name: path.relative(root, file).split(path.sep).join('/'), imports: isTest.test(file) ? [] : importsOf(file) }))
}

const isTest = /\.(?:test|test-d)\.ts$/

function importsOf(file) {
  const source = withoutComments(fs.readFileSync(file, 'utf8'))
  return [...source.matchAll(importPattern)].map((match) => match[1] ?? match[2] ?? match[3])
}

/** What the search found and the tool did not: files that are no modules, imports that are no edges. */
function overlooked(found, modules) {
  const edgesOf = new Map(modules.map((module) => [module.source, new Set(module.dependencies.map((each) => each.module))]))
  return found.flatMap(({ name, imports }) => {
    const edges = edgesOf.get(name)
    return edges === undefined ? [name] : imports.filter((each) => !edges.has(each)).map((each) => `${name}: ${each}`)
  })
}

const withoutComments = (source) => source.replace(/\/\*[\s\S]*?\*\//g, '')

/** One violation a rule: the file that must be refused, and what it imports. */
const plants = {
  'contracts-import-nothing': ['src/contracts/planted.ts', "import type { Target } from '../std/target.ts'"],
  'std-imports-nothing': ['src/std/planted.ts', "import { target } from '../contracts/target.ts'"],
  'queue-is-a-part': ['src/queue/planted.ts', "import { target } from '../lock/target.ts'"],
  'lock-is-a-part': ['src/lock/planted.ts', "import { target } from '../pipeline/target.ts'"],
  'cache-is-a-part': ['src/cache/planted.ts', "import type { Target } from '../drivers/sqlite/target.ts'"],
  'transaction-is-a-part': ['src/transaction/planted.ts', "export * from '../queue/target.ts'"],
  'balancer-is-a-part': ['src/balancer/planted.ts', "export { target } from '../server/target.ts'"],
  'drivers-stand-alone': ['src/drivers/redis/planted.ts', "import { target } from '../sqlite/target.ts'"],
  'observe-listens': ['src/observe/planted.ts', "import { target } from '../pipeline/target.ts'"],
  'testing-knows-parts': ['src/testing/planted.ts', "import { target } from '../pipeline/target.ts'"],
  'pipeline-composes': ['src/pipeline/planted.ts', "import { target } from '../server/target.ts'"],
  'server-imports-pipeline': ['src/server/planted.ts', "import { target } from '../cli/target.ts'"],
  'cli-imports-pipeline': ['src/cli/planted.ts', "import { target } from '../testing/target.ts'"],
  'drivers-are-loaded-by-name': ['src/pipeline/driver.ts', "import { target } from '../drivers/sqlite/target.ts'"],
  'the-entry-has-the-embedded-driver': ['src/index.ts', "export { target } from './drivers/redis/planted.ts'"],
  'clients-belong-to-drivers': ['src/queue/client.ts', "import pg from 'pg'"],
  'driver-sqlite-has-one-client': ['src/drivers/sqlite/planted.ts', "import fastify from 'fastify'"],
  'driver-postgres-has-one-client': ['src/drivers/postgres/planted.ts', "import fastify from 'fastify'"],
  'driver-mysql-has-one-client': ['src/drivers/mysql/planted.ts', "import fastify from 'fastify'"],
  'driver-redis-has-one-client': ['src/drivers/redis/client.ts', "import fastify from 'fastify'"],
  'driver-rabbitmq-has-one-client': ['src/drivers/rabbitmq/planted.ts', "import fastify from 'fastify'"],
  'driver-memcached-has-one-client': ['src/drivers/memcached/planted.ts', "import fastify from 'fastify'"],
  'other-drivers-have-no-client': ['src/drivers/kafka/planted.ts', "import fastify from 'fastify'"],
  'ground-has-no-packages': ['src/std/package.ts', "import { z } from 'zod'"],
  'no-circles': ['src/queue/circle.ts', "import type { Other } from './circle-back.ts'\nexport type Circle = Other"],
  'tests-are-not-imported': ['src/queue/uses-test.ts', "import { target } from './target.test.ts'"],
  'published-code-imports-published-code': ['src/cli/uses-bench.ts', "import { target } from '../../bench/target.ts'"],
  'published-code-has-its-packages': ['src/cli/tool.ts', "import { describe } from 'vitest'"],
  'dist-is-not-source': ['test/planted.ts', "import { target } from '../dist/target.js'"],
  'examples-import-the-package': ['examples/planted.ts', "import { target } from '../src/pipeline/target.ts'"],
  'benches-measure-the-package': ['bench/planted.ts', "import { target } from '../src/queue/planted.ts'"],
  'imports-resolve': ['src/queue/nowhere.ts', "import { target } from './nowhere-else.ts'"],
}

/** Rules that let a plant pass, and rules that have no plant. */
async function blindRules() {
  fs.mkdirSync(path.join(root, '.cache'), { recursive: true })
  const baseDir = fs.mkdtempSync(path.join(root, '.cache/planted-'))
  try {
    fs.copyFileSync(path.join(root, 'package.json'), path.join(baseDir, 'package.json'))
    fs.copyFileSync(path.join(root, 'tsconfig.json'), path.join(baseDir, 'tsconfig.json'))
    const write = (file, text) => {
      fs.mkdirSync(path.dirname(path.join(baseDir, file)), { recursive: true })
      fs.writeFileSync(path.join(baseDir, file), `${text}\n`)
    }
    const targets = ['contracts', 'std', 'queue', 'lock', 'pipeline', 'server', 'cli', 'testing', 'drivers/sqlite']
    for (const folder of targets) write(`src/${folder}/target.ts`, 'export const target = 1\nexport type Target = 1')
    for (const file of ['src/queue/target.test.ts', 'bench/target.ts', 'dist/target.js']) write(file, 'export const target = 1')
    write('src/queue/circle-back.ts', "import type { Circle } from './circle.ts'\nexport type Other = Circle")
    for (const [file, text] of Object.values(plants)) write(file, text)
    const { violations } = await read(baseDir, folders)
    const concerns = (each, file) => each.from === file || (each.cycle ?? []).some((step) => step.name === file)
    return rules.forbidden
      .map((rule) => rule.name)
      .filter((name) => !violations.some((each) => each.rule.name === name && concerns(each, plants[name]?.[0])))
  } finally {
    fs.rmSync(baseDir, { recursive: true, force: true })
  }
}

const found = searched()
const { modules, violations } = await read(
  root,
  folders.filter((folder) => fs.existsSync(path.join(root, folder))),
)
const missed = overlooked(found, modules)
const blind = await blindRules()

for (const each of violations) {
  const rule = rules.forbidden.find((candidate) => candidate.name === each.rule.name)
  const way = each.cycle === undefined ? each.to : each.cycle.map((step) => step.name).join(' -> ')
  console.log(`${each.from} imports ${way}\n  ${each.rule.name}: ${rule?.comment ?? ''}`)
}
if (found.length === 0) console.log('No TypeScript file was found: the check looked at nothing.')
for (const each of missed) console.log(`not read by dependency-cruiser: ${each}`)
for (const each of blind) console.log(`the rule ${each} lets its planted violation pass`)
const imports = found.reduce((sum, each) => sum + each.imports.length, 0)
console.log(`${found.length} files, ${imports} relative imports, ${rules.forbidden.length} rules, each tried on a planted violation`)
if (found.length === 0 || violations.length + missed.length + blind.length > 0) process.exitCode = 1
