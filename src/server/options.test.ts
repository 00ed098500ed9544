import { describe, expect, test } from 'vitest'
import { HeadraceError } from '../contracts/errors.ts'
import { environmentName } from '../pipeline/options.ts'
import { edgeTable, resolveEdgeOptions, resolveServerOptions, serverTable } from './options.ts'

function refusal(action: () => unknown): HeadraceError {
  try {
    action()
  } catch (error) {
    if (HeadraceError.is(error)) return error
  }
  return expect.unreachable()
}

describe('the options of the server', () => {
  test('come from the code, then the environment, then the default', () => {
    expect(resolveServerOptions({}, {})).toMatchObject({ host: '127.0.0.1', port: 8080, idleTimeoutMs: 75_000, logLevel: 'info' })
    expect(
      resolveServerOptions(
        {},
        { HEADRACE_PORT: '9000', HEADRACE_HOST: '::1', HEADRACE_LOG_LEVEL: 'warn', HEADRACE_BODY_BYTES_MAX: '2048' },
      ),
    ).toMatchObject({ port: 9000, host: '::1', logLevel: 'warn', bodyBytesMax: 2048 })
    expect(resolveServerOptions({ port: 1, host: 'a' }, { HEADRACE_PORT: '9000', HEADRACE_HOST: '::1' })).toMatchObject({
      port: 1,
      host: 'a',
    })
  })

  test('that nobody knows are refused with the nearest name', () => {
    const error = refusal(() => resolveServerOptions({ bodyByteMax: 1 } as never, {}))
    expect(error.code).toBe('option-unknown')
    expect(error.message).toContain("did you mean 'bodyBytesMax'?")
    expect(refusal(() => resolveEdgeOptions({ port: 1 } as never, {})).code).toBe('option-unknown')
  })

  test.each([
    [{ port: 65_536 }],
    [{ port: 1.5 }],
    [{ connectionsMax: 0 }],
    [{ logLevel: 'loud' }],
    [{ host: '' }],
    [{ waitMsDefault: 50_000, waitMsMax: 40_000 }],
    [{ waitMsMax: 200_000 }],
    [{ headersTimeoutMs: 40_000 }],
    [{ lineBytesMax: 8 * 1024 ** 2 }],
    [{ heartbeatMs: 130_000 }],
  ])('%o is refused', (given) => {
    expect(refusal(() => resolveServerOptions(given as never, {})).code).toBe('option-invalid')
  })

  test('from the environment are refused with the name of the variable', () => {
    expect(refusal(() => resolveServerOptions({}, { HEADRACE_CONNECTIONS_MAX: 'many' })).message).toContain('HEADRACE_CONNECTIONS_MAX')
  })

  test('have defaults inside of their bounds, a sentence each, and variables of their own', () => {
    const table = { ...edgeTable, ...serverTable }
    for (const [name, { default: value, min, max, about }] of Object.entries(table)) {
      expect(value, name).toBeGreaterThanOrEqual(min)
      expect(value, name).toBeLessThanOrEqual(max)
      expect(about, name).toMatch(/^[A-Z].*\.$/)
    }
    expect(new Set(Object.keys(table).map(environmentName)).size).toBe(Object.keys(edgeTable).length + Object.keys(serverTable).length)
  })
})
