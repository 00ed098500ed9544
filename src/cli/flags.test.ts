import { InvalidArgumentError } from 'commander'
import { describe, expect, it } from 'vitest'
import { limitTable } from '../pipeline/options.ts'
import { address, flagName, givenLimits, lengthOfTime, share, wholeNumber } from './flags.ts'

describe('values of flags', () => {
  it('are whole numbers within their bounds', () => {
    const read = wholeNumber(1, 100)
    expect(read('7')).toBe(7)
    expect(wholeNumber(0)('1_000_000')).toBe(1_000_000)
    for (const wrong of ['0', '101', '1.5', 'x', '', ' ', '1e9x', '_1', '1__0'])
      expect(() => read(wrong), wrong).toThrow(InvalidArgumentError)
  })

  it('are shares as 0.1 or 10%', () => {
    expect([share('0.1'), share('10%'), share('0'), share('1')]).toEqual([0.1, 0.1, 0, 1])
    for (const wrong of ['-0.1', '1.1', '101%', 'x', '']) expect(() => share(wrong), wrong).toThrow(InvalidArgumentError)
  })

  it('are lengths of time with a unit, seconds without one', () => {
    expect(['500ms', '10s', '2m', '1h', '3', '1.5s'].map(lengthOfTime)).toEqual([500, 10_000, 120_000, 3_600_000, 3_000, 1_500])
    for (const wrong of ['', 'x', '5 days', '-1s']) expect(() => lengthOfTime(wrong), wrong).toThrow(InvalidArgumentError)
  })

  it('are addresses with or without scheme and host', () => {
    expect([':8080', 'localhost:3000', 'http://h:1/', 'https://h/base/'].map(address)).toEqual([
      'http://127.0.0.1:8080',
      'http://localhost:3000',
      'http://h:1',
      'https://h/base',
    ])
    for (const wrong of ['ftp://h', 'http://', 'a b']) expect(() => address(wrong), wrong).toThrow(InvalidArgumentError)
  })
})

describe('flags of limits', () => {
  it('are the names of the limits with dashes', () => {
    expect(flagName('batchCommandsMax')).toBe('--batch-commands-max')
    expect(flagName('partitions')).toBe('--partitions')
  })

  it('give what was on the command line and nothing else', () => {
    expect(givenLimits({ batchCommandsMax: 7, port: 1, json: true }, limitTable)).toEqual({ batchCommandsMax: 7 })
  })
})
