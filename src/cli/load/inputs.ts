/** Which source of inputs the command line names. */
import { existsSync } from 'node:fs'
import type { Random } from '../../std/random.ts'
import { importFile } from '../app-file.ts'
import { CliError, exitCodes } from '../exit.ts'
import { ExpressionError } from './expression.ts'
import { type Generator, generatorSource, lineSource, type NextInput, templateSource } from './source.ts'

export interface InputFlags {
  readonly input?: string
  readonly generator?: string
  readonly from?: string
}

/** Throws 'usage', 'input-template', 'file-missing' and 'generator-missing'. */
export async function sourceOf({ input, generator, from }: InputFlags, random: Random): Promise<NextInput> {
  const given = [input, generator, from].filter((source) => source !== undefined).length
  if (given !== 1)
    throw new CliError(
      exitCodes.usage,
      'usage',
      given === 0 ? 'Where do the inputs come from?' : 'The inputs come from one place.',
      'Give one of --input, --generator and --from.',
    )
  if (input !== undefined) return templateOf('--input', input, random)
  if (generator !== undefined) return generatorOf(generator, random)
  const file = from ?? '-'
  if (file !== '-' && !existsSync(file)) throw new CliError(exitCodes.usage, 'file-missing', `There is no file ${file}.`)
  return lineSource(file)
}

export function templateOf(flag: string, template: string, random: Random): NextInput {
  try {
    return templateSource(template, random)
  } catch (error) {
    if (error instanceof ExpressionError) throw new CliError(exitCodes.usage, 'input-template', `${flag}: ${error.message}`)
    throw error
  }
}

async function generatorOf(file: string, random: Random): Promise<NextInput> {
  const { default: exported, generate } = await importFile(file)
  const generator = exported ?? generate
  if (typeof generator !== 'function')
    throw new CliError(exitCodes.usage, 'generator-missing', `${file} exports no function.`, 'export default (i, random) => ({ … })')
  return generatorSource(generator as Generator, random)
}
