/** Looks at the target once before a run, so that ten thousand requests do not fail for one reason. */
import { nearest } from '../../contracts/nearest.ts'
import { CliError, exitCodes } from '../exit.ts'
import { parseObject } from './answer.ts'
import type { Transport } from './transport.ts'

/** Throws 'node-unreachable' when nothing answers there, 'command-unknown' when the node has no such command. */
export async function probe(transport: Transport, url: string, command: string): Promise<void> {
  const reply = await transport.send('GET', '/openapi.json', [], null).catch((error: unknown) => {
    const { code, message } = error as NodeJS.ErrnoException
    throw new CliError(
      exitCodes.unavailable,
      'node-unreachable',
      `Cannot reach ${url}: ${code ?? message}.`,
      'Start the node (headrace start app.ts), or name its address: --url http://…',
    )
  })
  const paths = parseObject(reply.body)?.['paths']
  // A node behind something that hides the description is taken as it is.
  if (reply.status !== 200 || typeof paths !== 'object' || paths === null) return
  const commands = Object.keys(paths)
    .filter((path) => path.startsWith('/commands/'))
    .map((path) => path.slice('/commands/'.length))
  if (commands.length === 0 || commands.includes(command)) return
  const proposal = nearest(command, commands)
  throw new CliError(
    exitCodes.usage,
    'command-unknown',
    `${url} has no command '${command}'${proposal === null ? '' : `; did you mean '${proposal}'?`}`,
    `It has ${commands.join(', ')}.`,
  )
}
