/**
 * `npm run bench -- NAME …`: sets the clone up, then becomes bench/run.ts.
 * Benches import `headrace` as users do, which is the build. Garbage collection
 * is exposed, so that the frame can clean up between contenders.
 */
import path from 'node:path'
import { pathToFileURL } from 'node:url'
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import { root, setUpOrExit } from './setup.mjs'

await setUpOrExit()
setFlagsFromString('--expose-gc')
globalThis.gc = runInNewContext('gc')
// @ts-expect-error its types are an empty file
await import('jiti/register')
const main = path.join(root, 'bench/run.ts')
process.argv = [process.argv[0], main, ...process.argv.slice(2)]
await import(pathToFileURL(main).href)
