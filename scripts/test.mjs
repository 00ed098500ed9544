/**
 * `npm test`: sets the clone up, then becomes `vitest run`, with all arguments
 * passed on. The build is made by the test project that needs it.
 */
import path from 'node:path'
import { pathToFileURL } from 'node:url'
import { root, setUpOrExit } from './setup.mjs'

await setUpOrExit({ build: 'never' })
process.chdir(root)
const main = path.join(root, 'node_modules/vitest/vitest.mjs')
process.argv = [process.argv[0], main, 'run', ...process.argv.slice(2)]
await import(pathToFileURL(main).href)
