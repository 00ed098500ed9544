/** `headrace version`: what is running, for a report of a defect. */
import type { Command } from 'commander'
import { act } from '../action.ts'
import { exitCodes } from '../exit.ts'
import { version } from '../package.ts'
import { table } from '../terminal.ts'

export function addVersion(program: Command): void {
  program
    .command('version')
    .description('print the versions of Headrace, Node and SQLite')
    .option('--json', 'as one JSON object')
    .action(
      act(async ({ terminal }) => {
        const { DatabaseSync } = await import('@photostructure/sqlite')
        const memory = new DatabaseSync(':memory:')
        const { sqlite } = memory.prepare('select sqlite_version() as sqlite').get() as { sqlite: string }
        memory.close()
        const versions = { headrace: version, node: process.version.slice(1), sqlite, platform: `${process.platform} ${process.arch}` }
        terminal.document(versions)
        for (const line of table(Object.entries(versions))) terminal.print(line)
        return exitCodes.ok
      }),
    )
}
