/**
 * Three projects, one after the other:
 *
 * - `unit`: tests beside the source, two files at a time.
 * - `types`: `*.test-d.ts`, checked by the compiler.
 * - `process`: the tests under test/, which start the real command line and kill
 *   it; one file at a time, on a build that is made first.
 *
 * `headrace` and its subpaths mean src in here, as package.json names them: one
 * copy of the package in the test process, and it is the source. Processes that
 * tests start resolve the same names by themselves, to dist: one copy there too,
 * and it is what users run. No test imports dist.
 */
import { readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { defineConfig } from 'vitest/config'

const here = (path: string): string => fileURLToPath(new URL(path, import.meta.url))

const { exports: entries } = JSON.parse(readFileSync(here('./package.json'), 'utf8')) as {
  exports: Record<string, string | { readonly default: string }>
}

/** Every entry of the package, by the name it is imported under. */
const alias = Object.entries(entries).flatMap(([subpath, target]) =>
  typeof target === 'string'
    ? []
    : [
        {
          find: new RegExp(`^headrace${subpath.slice(1)}$`),
          replacement: here(target.default.replace('./dist/', './src/').replace(/\.js$/, '.ts')),
        },
      ],
)

const shared = { resolve: { alias } }
const unitTimeoutMs = 20_000
const processTimeoutMs = 120_000

export default defineConfig({
  ...shared,
  test: {
    reporters: ['default', './scripts/summary-reporter.mjs'],
    projects: [
      {
        ...shared,
        test: {
          name: 'unit',
          include: ['{src,examples,bench,scripts,test/structure}/**/*.test.ts'],
          testTimeout: unitTimeoutMs,
          hookTimeout: unitTimeoutMs,
          maxWorkers: 2,
          sequence: { groupOrder: 0 },
        },
      },
      {
        ...shared,
        test: {
          name: 'types',
          include: [],
          typecheck: {
            enabled: true,
            only: true,
            include: ['src/**/*.test-d.ts', 'examples/**/*.test-d.ts'],
            tsconfig: here('./tsconfig.json'),
            // The rest of the source is checked by `npm run check`.
            ignoreSourceErrors: true,
          },
          maxWorkers: 1,
          sequence: { groupOrder: 1 },
        },
      },
      {
        ...shared,
        test: {
          name: 'process',
          include: ['test/**/*.test.ts'],
          exclude: ['test/structure/**'],
          globalSetup: ['./scripts/build-before-tests.mjs'],
          testTimeout: processTimeoutMs,
          hookTimeout: processTimeoutMs,
          fileParallelism: false,
          sequence: { groupOrder: 2 },
        },
      },
    ],
  },
})
