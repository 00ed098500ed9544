/** The flash sale through a queue: the same app, the same verdict, whatever is killed. */
import { describe, expect, it } from 'vitest'
import { serverMissing } from '../../src/testing/servers/index.ts'
import { headrace, onlyDocument } from '../cli/headrace.ts'

interface Sale {
  readonly ok: boolean
  readonly accepted: number
  readonly kills: number
  readonly queueKills: number
  readonly checks: readonly { readonly name: string; readonly ok: boolean; readonly found: string }[]
}

const sell = (...more: string[]) =>
  headrace(['demo', 'flash-sale', '--orders', '1500', '--buyers', '100', '--seed', '12', '--once', '--json', ...more])

describe('headrace demo flash-sale --queue', () => {
  for (const [queue, kills, queueKills, missing] of [
    ['sqlite', '2', '0', null],
    ['postgres', '1', '2', serverMissing('postgres')],
    ['rabbitmq', '1', '2', serverMissing('rabbitmq')],
  ] as const) {
    it.skipIf(missing !== null)(
      `adds up through ${queue} while the node is killed ${kills} times and the queue ${queueKills} times${missing === null ? '' : ` (${missing})`}`,
      async () => {
        const ended = await sell('--queue', queue, '--kill', kills, '--kill-queue', queueKills)
        const sale = onlyDocument<Sale>(ended)
        expect(sale.checks.filter((check) => !check.ok)).toEqual([])
        expect(sale).toMatchObject({ ok: true, kills: Number(kills), queueKills: Number(queueKills) })
        expect(sale.accepted).toBeGreaterThan(0)
        expect(ended.code).toBe(0)
      },
    )
  }

  it('refuses a queue that it does not know without repeating it, and to kill what is not its own', async () => {
    for (const given of [
      ['--queue', 'kafka://me:secret@queue'],
      ['--queue', 'sqlite', '--kill-queue', '1'],
    ]) {
      const ended = await sell(...given)
      expect(ended.code).toBe(2)
      expect(onlyDocument(ended)).toMatchObject({ error: { code: 'usage' } })
      expect(ended.stdout + ended.stderr).not.toContain('secret')
    }
  })
})
