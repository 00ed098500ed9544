import { PassThrough } from 'node:stream'
import { describe, expect, it } from 'vitest'
import { confirmed } from './confirm.ts'
import { createTerminal, type Terminal } from './terminal.ts'

function terminalOf({ json = false, tty = true } = {}): { readonly terminal: Terminal; said(): string } {
  const stderr = Object.assign(new PassThrough(), { isTTY: tty })
  const terminal = createTerminal(json, { stdout: new PassThrough(), stderr, environment: {} })
  return { terminal, said: () => String(stderr.read() ?? '') }
}

const typed = (text: string, isTTY = true): PassThrough & { isTTY: boolean } => {
  const input = Object.assign(new PassThrough(), { isTTY })
  input.end(text)
  return input
}

describe('what cannot be taken back', () => {
  it.each([
    ['y\n', true],
    ['YES\n', true],
    ['n\n', false],
    ['\n', false],
    ['yesterday\n', false],
    ['', false],
  ])('is asked for on a terminal, and %j means %s', async (answer, meaning) => {
    const { terminal, said } = terminalOf()
    expect(await confirmed(terminal, { what: 'Undo it', yes: undefined }, typed(answer))).toBe(meaning)
    expect(said()).toContain('Undo it?')
  })

  it('is not asked for with --yes', async () => {
    const { terminal, said } = terminalOf({ tty: false })
    expect(await confirmed(terminal, { what: 'Undo it', yes: true }, typed('n\n', false))).toBe(true)
    expect(said()).toBe('')
  })

  it.each([
    ['with --json', { json: true }, true],
    ['when nobody sees the question', { tty: false }, true],
    ['when nobody can answer', {}, false],
  ])('is refused %s', async (_, streams, canAnswer) => {
    const { terminal } = terminalOf(streams)
    await expect(confirmed(terminal, { what: 'Undo it', yes: undefined }, typed('y\n', canAnswer))).rejects.toThrow('Undo it')
  })
})
