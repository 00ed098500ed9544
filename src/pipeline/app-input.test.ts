import { describe, expect, it } from 'vitest'
import { z } from 'zod'
import { codeOf, errorOf, notes, started, temporaryFolder } from '../../test/support/apps.ts'
import { type AnyCommand, accept, type App, type AppOptions, command, defineApp } from '../index.ts'

async function appOf(commands: readonly AnyCommand[], options: AppOptions = {}): Promise<App> {
  return started(defineApp({ name: 'door', commands, dataDir: temporaryFolder(), ...options }))
}

const echo = command('echo.any', { input: z.unknown(), key: () => 'k', run: ({ input }) => accept(input) })
const nested = (levels: number): unknown => JSON.parse('['.repeat(levels) + ']'.repeat(levels))

/** Nothing of a refused command is kept, and the app takes the next one. */
async function untouched(app: App): Promise<void> {
  expect((await app.status()).counts).toMatchObject({ queued: 0, outcomes: 0, dead: 0 })
  expect(app).toMatchObject({ kind: 'headrace-app' })
}

describe('an input that', () => {
  it('does not fit the schema is refused with each field and why', async () => {
    const n = notes()
    await started(n.app)
    const error = await errorOf(n.app.submit(n.run, { key: 5, value: 'x' } as never))
    expect(error.code).toBe('input-invalid')
    expect(error.message).toContain("command 'note.run'")
    expect(error.details?.['issues']).toEqual([
      { path: 'key', message: expect.any(String) },
      { path: 'value', message: expect.any(String) },
    ])
    await untouched(n.app)
  })

  it('has a thousand faults is told of the first twenty', async () => {
    const list = command('list.put', { input: z.array(z.number()), key: () => 'k', run: () => accept() })
    const app = await appOf([list])
    const error = await errorOf(app.submit(list, new Array<never>(1000).fill('x' as never)))
    expect(error.details?.['issues']).toHaveLength(20)
  })

  it('is nested too deeply is refused, a megabyte of brackets included', async () => {
    const app = await appOf([echo], { jsonDepthMax: 10 })
    expect(await codeOf(app.submit(echo, nested(10)))).toBe('nothing')
    expect(await codeOf(app.submit(echo, nested(11)))).toBe('body-too-deep')
    expect(await codeOf(app.submit(echo, nested(524_288)))).toBe('body-too-deep')
  })

  it('is too large is refused, in bytes, not in characters', async () => {
    const app = await appOf([echo], { inputBytesMax: 100 })
    expect(await codeOf(app.submit(echo, 'x'.repeat(98)))).toBe('nothing')
    expect(await codeOf(app.submit(echo, 'x'.repeat(99)))).toBe('body-too-large')
    expect(await codeOf(app.submit(echo, '日'.repeat(32)))).toBe('nothing')
    expect(await codeOf(app.submit(echo, '日'.repeat(33)))).toBe('body-too-large')
  })

  it.each([
    ['undefined', undefined, 'body-missing'],
    ['a function', () => 1, 'body-missing'],
    ['a bigint', 1n, 'input-invalid'],
    [
      'a thing that throws while it is written',
      {
        toJSON: () => {
          throw new Error('no')
        },
      },
      'input-invalid',
    ],
  ])('is %s is refused', async (_what, input, code) => {
    const app = await appOf([echo])
    expect(await codeOf(app.submit(echo, input))).toBe(code)
    await untouched(app)
  })

  it.each([
    ['a date', { at: new Date(0) }],
    ['a map', { things: new Map([['a', 1]]) }],
    ['numbers that are none', [Number.NaN, Number.POSITIVE_INFINITY, -0]],
    ['bytes', { bytes: new Uint8Array(2) }],
    ['undefined', { a: undefined, list: [undefined] }],
  ])('holds %s is taken as JSON has it, so that it is the same in memory and after a stay on disk', async (_what, input) => {
    const app = await appOf([echo])
    const asJson: unknown = JSON.parse(JSON.stringify(input))
    expect(await app.submit(echo, input)).toMatchObject({ status: 'committed', result: asJson })
  })

  it('cannot come back from disk as its schema wants it is refused before it is taken', async () => {
    const dated = command('date.put', { input: z.object({ at: z.date() }), key: () => 'k', run: () => accept() })
    const app = await appOf([dated])
    expect(await codeOf(app.submit(dated, { at: new Date() }))).toBe('input-invalid')
    await untouched(app)
  })

  it('is changed by its caller after submit is applied as it was submitted', async () => {
    const app = await appOf([echo])
    const input = { items: [1, 2] }
    const outcome = app.submit(echo, input)
    input.items.push(3)
    expect(await outcome).toMatchObject({ status: 'committed', result: { items: [1, 2] } })
  })

  it('names __proto__ pollutes nothing, neither in memory nor after a stay on disk', async () => {
    const hostile = (): unknown =>
      JSON.parse('{"__proto__":{"polluted":true},"constructor":{"prototype":{"polluted":true}},"key":"a","value":1}')
    const n = notes({ does: ({ value }) => (value === 1 ? 'accept' : 'reject') })
    const merge = command('merge.put', {
      input: z.looseObject({ key: z.string() }),
      key: ({ key }) => key,
      run: ({ input }) =>
        accept({ own: Object.getPrototypeOf(input) === Object.prototype, polluted: ({} as { polluted?: boolean }).polluted ?? false }),
    })
    const app = await appOf([merge])
    await started(n.app)
    const outcome = await app.submit(merge, hostile() as never)
    expect(outcome).toMatchObject({ status: 'committed', result: { own: true, polluted: false } })
    const receipt = await n.app.enqueue(n.run, hostile() as never)
    expect(JSON.parse((await receipt.outcome).body)).toMatchObject({ status: 'committed' })
    expect(({} as { polluted?: boolean }).polluted).toBeUndefined()
  })
})

describe('a key()', () => {
  it.each([
    [
      'throws',
      () => {
        throw new Error('no such field')
      },
    ],
    ['gives undefined', () => undefined],
    ['gives null', () => null],
    ['gives an empty text', () => ''],
    ['gives a text of more than 512 bytes', () => 'x'.repeat(513)],
    ['gives a text of more than 512 bytes in fewer characters', () => '日'.repeat(171)],
    ['gives a fraction', () => 1.5],
    ['gives NaN', () => Number.NaN],
    ['gives an object', () => ({})],
    ['gives a promise', async () => 'k'],
    ['gives half a surrogate pair, which no database can tell from another', () => 'a\ud800'],
    ['gives a zero character, at which a database would cut it', () => 'a\0b'],
  ])('that %s refuses the command before anything is kept', async (_what, key) => {
    const bad = command('key.bad', { input: z.unknown(), key: key as () => string, run: () => accept() })
    const app = await appOf([bad])
    const error = await errorOf(app.submit(bad, {}))
    expect(error.code).toBe('key-invalid')
    expect(error.message).toContain("'key.bad'")
    await untouched(app)
  })

  it.each([['x'.repeat(512)], ['日本 🦜'], ["it's; drop table entry; --"], ['a/b\nc'], [-7], [0]])('may give %j', async (key) => {
    const good = command('key.good', { input: z.unknown(), key: () => key, run: ({ key }) => accept(key) })
    const app = await appOf([good])
    expect(await app.submit(good, {})).toMatchObject({ status: 'committed', result: String(key) })
    const receipt = await app.enqueue(good, {})
    expect(JSON.parse((await receipt.outcome).body)).toMatchObject({ status: 'committed', result: String(key) })
  })
})

describe('what comes with a command', () => {
  it('an id that is not 1 to 128 visible ASCII characters is refused', async () => {
    const app = await appOf([echo])
    for (const id of ['', 'x'.repeat(129), 'with space', 'ü', 'line\nbreak', '\u007f'])
      expect(await codeOf(app.submit(echo, 1, { id }))).toBe('id-invalid')
    for (const id of ['!', 'x'.repeat(128), '"{}"', 'a/b/c']) expect(await app.submit(echo, 1, { id })).toMatchObject({ id })
    expect(await codeOf(app.submit(echo, 1, { id: 7 as never }))).toBe('id-invalid')
  })

  it('a tenant that is not 1 to 64 plain characters is refused', async () => {
    const app = await appOf([echo])
    for (const tenant of ['', 'x'.repeat(65), 'a/b', 'a b']) expect(await codeOf(app.submit(echo, 1, { tenant }))).toBe('tenant-invalid')
    expect(await codeOf(app.submit(echo, 1, { tenant: 'Acme-1.eu_west' }))).toBe('nothing')
  })

  it('without an id gets a new one each time', async () => {
    const app = await appOf([echo])
    const [a, b] = await Promise.all([app.submit(echo, 1), app.submit(echo, 1)])
    expect(a.id).not.toBe(b.id)
    expect(a.position).not.toBe(b.position)
  })

  it('a command that is not there is refused, with the one that was meant', async () => {
    const app = await appOf([echo])
    const error = await errorOf(app.gateway.take('echo.ayn', 1, {}))
    expect(error.code).toBe('command-unknown')
    expect(error.message).toContain("did you mean 'echo.any'?")
    expect(await codeOf(app.gateway.outcomeState('no.such', 'default', 'x'))).toBe('command-unknown')
    expect(await codeOf(app.gateway.waitForOutcome('no.such', 'default', 'x', AbortSignal.timeout(1_000)))).toBe('command-unknown')
  })

  it('a signal stops the waiting, not the command', async () => {
    const n = notes()
    await started(n.app)
    const release = await n.hold()
    const control = new AbortController()
    const waiting = codeOf(n.app.submit(n.run, { key: 'a', value: 1 }, { id: 'x', signal: control.signal }))
    control.abort()
    expect(await waiting).toBe('wait-aborted')
    expect(await codeOf(n.app.submit(n.run, { key: 'a', value: 1 }, { id: 'x', signal: AbortSignal.abort() }))).toBe('wait-aborted')
    await release()
    expect(await n.app.gateway.waitForOutcome('note.run', 'default', 'x', AbortSignal.timeout(5_000))).toMatchObject({
      state: 'done',
      status: 'committed',
    })
    expect(n.effects()).toHaveLength(1)
  })
})
