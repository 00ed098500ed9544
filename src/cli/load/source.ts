/** Where the inputs of a load run come from: a template, a generator module, or lines of NDJSON. */
import { createReadStream } from 'node:fs'
import type { Readable } from 'node:stream'
import { HeadraceError } from '../../contracts/errors.ts'
import type { Random } from '../../std/random.ts'
import { compileTemplate } from './template.ts'

export type NextInput = (index: number) => string | null | Promise<string | null>

export function templateSource(template: string, random: Random): NextInput {
  const make = compileTemplate(template)
  return (index) => make(index, random)
}

/** A generator gives the input of command `index` as plain data; null or undefined ends the run. */
export type Generator = (index: number, random: Random) => unknown

export function generatorSource(generator: Generator, random: Random): NextInput {
  const textOf = (value: unknown): string | null => (value === null || value === undefined ? null : JSON.stringify(value))
  return (index) => {
    const value = generator(index, random)
    return value instanceof Promise ? value.then(textOf) : textOf(value)
  }
}

/** Longest line that is taken, in characters. */
const lineLengthMax = 64 * 1024 ** 2

/** Lines of a file, or of standard input for '-'. Empty lines are passed over. Rejects with 'line-too-long' and the errors of the file. */
export function lineSource(file: string): NextInput {
  const stream: Readable = file === '-' ? process.stdin : createReadStream(file)
  stream.setEncoding('utf8')
  const chunks = stream[Symbol.asyncIterator]() as AsyncIterator<string>
  let ready: string[] = []
  let at = 0
  let rest = ''
  let ended = false

  const buffered = (): string | null => {
    while (at < ready.length) {
      const line = (ready[at++] as string).trim()
      if (line !== '') return line
    }
    return null
  }

  const read = async (): Promise<string | null> => {
    for (;;) {
      const line = buffered()
      if (line !== null || ended) return line
      const { value, done } = await chunks.next()
      if (done === true) {
        ended = true
        ready = [rest]
      } else {
        const parts = (rest + value).split('\n')
        rest = parts.pop() ?? ''
        if (rest.length > lineLengthMax)
          throw new HeadraceError(
            'line-too-long',
            `A line of ${file === '-' ? 'standard input' : file} is longer than ${lineLengthMax} characters.`,
          )
        ready = parts
      }
      at = 0
    }
  }
  return () => buffered() ?? (ended ? null : read())
}
