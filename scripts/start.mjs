/**
 * `npm start`: sets the clone up, then becomes `headrace demo flash-sale`.
 *
 * The command line runs in this very process, so that signals, the terminal
 * and the exit code are its own.
 */
import path from 'node:path'
import { pathToFileURL } from 'node:url'
import { root, setUpOrExit } from './setup.mjs'

await setUpOrExit()
const main = path.join(root, 'dist/cli/main.js')
process.argv = [process.argv[0], main, 'demo', 'flash-sale', ...process.argv.slice(2)]
await import(pathToFileURL(main).href)
