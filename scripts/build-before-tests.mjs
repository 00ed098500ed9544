/** Runs once before the tests that start the real command line: they run what is built. */
import { ensureBuilt } from './setup.mjs'

export async function setup() {
  await ensureBuilt()
}
