import { describe, expect, it } from 'vitest'
import { amount, bytes, count, counted, createTerminal, duration, percent, table, type TerminalStreams, widthOf } from './terminal.ts'

function streams(isTTY: boolean, environment: Record<string, string> = {}): TerminalStreams & { out: string; err: string } {
  const written = { out: '', err: '' }
  const stream = (name: 'out' | 'err') => ({
    isTTY,
    columns: 80,
    write(text: string) {
      written[name] += text
    },
  })
  return Object.assign(written, { stdout: stream('out'), stderr: stream('err'), environment }) as unknown as TerminalStreams & {
    out: string
    err: string
  }
}

describe('the terminal', () => {
  it('shows colours on a terminal only, and never with NO_COLOR or TERM=dumb', () => {
    expect(createTerminal(false, streams(true)).style('red', 'x')).toBe('\u001b[31mx\u001b[39m')
    expect(createTerminal(false, streams(false)).style('red', 'x')).toBe('x')
    expect(createTerminal(false, streams(true, { NO_COLOR: '1' })).style('red', 'x')).toBe('x')
    expect(createTerminal(false, streams(true, { NO_COLOR: '' })).style('red', 'x')).toBe('\u001b[31mx\u001b[39m')
    expect(createTerminal(false, streams(true, { TERM: 'dumb' })).style('red', 'x')).toBe('x')
  })

  it('keeps standard output for JSON with --json, and for results without it', () => {
    const json = streams(false)
    const terminal = createTerminal(true, json)
    terminal.print('words')
    terminal.note('passing')
    terminal.document({ a: 1 })
    expect(json.out).toBe('{"a":1}\n')
    expect(json.err).toBe('words\npassing\n')

    const plain = streams(false)
    const other = createTerminal(false, plain)
    other.print('words')
    other.document({ a: 1 })
    expect(plain.out).toBe('words\n')
  })

  it('aligns columns by what is seen, colours left out', () => {
    const red = createTerminal(false, streams(true)).style('red', 'ab')
    expect(widthOf(red)).toBe(2)
    expect(
      table(
        [
          ['a', '1'],
          ['bcd', '100'],
        ],
        ['left', 'right'],
      ),
    ).toEqual(['  a      1', '  bcd  100'])
    expect(
      table([
        [red, 'x'],
        ['abc', 'y'],
      ])[0],
    ).toBe(`  ${red}   x`)
  })

  it('writes numbers as people read them', () => {
    expect(count(1234567)).toBe('1,234,567')
    expect(counted(1, 'batch', 'batches')).toBe('1 batch')
    expect(counted(2, 'batch', 'batches')).toBe('2 batches')
    expect([0.008, 0.82, 12, 123.4, 3400, 125_000, 12_000_000, 440_000_000, Number.NaN].map(duration)).toEqual([
      '8 µs',
      '0.82 ms',
      '12.0 ms',
      '123 ms',
      '3.4 s',
      '2 min 5 s',
      '3 h 20 min',
      '5 d 2 h',
      '–',
    ])
    expect(percent(0.1234)).toBe('12.3 %')
    expect([512, 2048, 5 * 1024 ** 3].map(bytes)).toEqual(['512 bytes', '2.0 KiB', '5.0 GiB'])
    expect([123456, 5, -250].map(amount)).toEqual(['1,234.56', '0.05', '-2.50'])
  })
})
