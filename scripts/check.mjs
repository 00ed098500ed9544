/**
 * `npm run check`: everything that is checked without running the code. One
 * line a step, with its time; the output of a step only when it fails.
 *
 * `npm run check -- types lint` runs the steps named. Two steps run at a time:
 * more would only share the cores of a small machine.
 */
import { spawn } from 'node:child_process'
import path from 'node:path'
import { root, setUpOrExit } from './setup.mjs'

const stepsAtOnceMax = 2
const stepMsMax = 5 * 60_000

const tool = (file, ...args) => [path.join('node_modules', file), ...args]

/** Slow ones first: the short ones fill the gaps. */
const steps = {
  promises: { about: 'promises that nobody awaits', commands: [tool('eslint/bin/eslint.js', '.')] },
  types: {
    about: 'types of source, tests, examples, benches and scripts',
    commands: [tool('typescript/bin/tsc', '-p', 'tsconfig.json'), tool('typescript/bin/tsc', '-p', 'scripts/tsconfig.json')],
  },
  unused: { about: 'unused files, exports and packages', commands: [tool('knip/bin/knip.js', '--no-progress')] },
  imports: { about: 'direction of imports', commands: [['scripts/check-imports.mjs']] },
  package: { about: 'the package as it would be published', commands: [tool('publint/src/cli.js', '--strict')] },
  lint: { about: 'suspicious code', commands: [tool('@biomejs/biome/bin/biome', 'lint', '--error-on-warnings')] },
  format: { about: 'format (npm run format corrects it)', commands: [tool('@biomejs/biome/bin/biome', 'format')] },
}

function run(args) {
  return new Promise((resolve) => {
    const child = spawn(process.execPath, args, { cwd: root, stdio: ['ignore', 'pipe', 'pipe'], timeout: stepMsMax, killSignal: 'SIGKILL' })
    let output = ''
    const keep = (chunk) => {
      output += chunk
    }
    child.stdout.setEncoding('utf8').on('data', keep)
    child.stderr.setEncoding('utf8').on('data', keep)
    child.on('error', (error) => resolve({ failed: true, output: error.message }))
    child.on('close', (code, signal) => resolve({ failed: code !== 0, output: signal === null ? output : `${output}\nended by ${signal}` }))
  })
}

async function check(name) {
  const { about, commands } = steps[name]
  const started = Date.now()
  const failures = []
  for (const command of commands) {
    const { failed, output } = await run(command)
    if (failed) failures.push(output.trim())
  }
  console.log(
    `${failures.length === 0 ? 'ok  ' : 'FAIL'}  ${name.padEnd(9)} ${`${((Date.now() - started) / 1000).toFixed(1)} s`.padStart(7)}  ${about}`,
  )
  for (const each of failures) console.log(`\n${each}\n`)
  return failures.length === 0
}

const names = process.argv.slice(2)
const unknown = names.filter((name) => !Object.hasOwn(steps, name))
if (unknown.length > 0) {
  console.error(`No such step: ${unknown.join(', ')}. Steps: ${Object.keys(steps).join(', ')}.`)
  process.exit(2)
}

// The package is linted as built, and examples and benches are typed against it.
await setUpOrExit()
const started = Date.now()
const waiting = names.length === 0 ? Object.keys(steps) : names
let failed = 0
const worker = async () => {
  for (let name = waiting.shift(); name !== undefined; name = waiting.shift()) if (!(await check(name))) failed++
}
await Promise.all(Array.from({ length: stepsAtOnceMax }, worker))
console.log(failed === 0 ? `All checks passed in ${((Date.now() - started) / 1000).toFixed(1)} s.` : `${failed} of the checks failed.`)
process.exitCode = failed === 0 ? 0 : 1
