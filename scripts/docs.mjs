/** `npm run docs`: writes the pages that the code itself documents (see reference.ts). */
import fs from 'node:fs'
import path from 'node:path'
import { createJiti } from 'jiti'
import { root, setUpOrExit } from './setup.mjs'

await setUpOrExit({ build: 'never' })
/** @type {typeof import('./reference.ts')} */
const { pages } = await createJiti(import.meta.url).import('./reference.ts')
for (const { file, text } of pages()) {
  const target = path.join(root, file)
  fs.mkdirSync(path.dirname(target), { recursive: true })
  if (fs.existsSync(target) && fs.readFileSync(target, 'utf8') === text) continue
  fs.writeFileSync(target, text)
  console.log(`wrote ${file}`)
}
