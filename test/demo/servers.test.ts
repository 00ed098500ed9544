/** The flash sale on PostgreSQL and MariaDB: the same app, the same verdict, whatever is killed. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { type Server, serverMissing, startPostgres } from '../../src/testing/servers/index.ts'
import { headrace, onlyDocument } from '../cli/headrace.ts'

interface Sale {
  readonly ok: boolean
  readonly accepted: number
  readonly kills: number
  readonly databaseKills: number
  readonly checks: readonly { readonly name: string; readonly ok: boolean; readonly found: string }[]
}

const missing = serverMissing('postgres') ?? serverMissing('mariadb')

const sell = (...more: string[]) =>
  headrace(['demo', 'flash-sale', '--orders', '1500', '--buyers', '100', '--seed', '11', '--once', '--json', ...more])

describe.skipIf(missing !== null)(`headrace demo flash-sale --databases${missing === null ? '' : ` (${missing})`}`, () => {
  it.each([
    ['postgres,mariadb', '2', '3'],
    ['postgres,sqlite', '2', '1'],
    ['mariadb', '1', '1'],
    ['sqlite,postgres,mariadb', '1', '2'],
  ])('adds up over %s while the node is killed %s times and the databases %s times', async (databases, kills, databaseKills) => {
    const ended = await sell('--databases', databases, '--kill', kills, '--kill-databases', databaseKills)
    const sale = onlyDocument<Sale>(ended)
    expect(sale.checks.filter((check) => !check.ok)).toEqual([])
    expect(sale.checks.map(({ name }) => name)).toContain('nothing left in doubt')
    expect(sale).toMatchObject({ ok: true, kills: Number(kills), databaseKills: Number(databaseKills) })
    expect(sale.accepted).toBeGreaterThan(0)
    expect(ended.code).toBe(0)
  })

  describe('at a url', () => {
    let server: Server
    beforeAll(async () => {
      server = await startPostgres()
    })
    afterAll(() => server.stop())

    it('sells there, and refuses to sell there again', async () => {
      expect((await sell('--databases', server.url, '--kill', '0', '--orders', '100')).code).toBe(0)
      const again = await sell('--databases', server.url, '--kill', '0', '--orders', '100')
      expect(again.code).toBe(2)
      expect(onlyDocument(again)).toMatchObject({ error: { code: 'data-not-empty' } })
    })

    it('does not kill what is not its own', async () => {
      const ended = await sell('--databases', server.url.replace('/postgres', '/template1'), '--kill-databases', '1')
      expect(ended.code).toBe(2)
      expect(onlyDocument(ended)).toMatchObject({ error: { code: 'usage' } })
    })
  })

  it('refuses places that it does not know, and does not repeat what may hold a password', async () => {
    for (const given of ['oracle://me:secret@db/sale', 'postgres,mariadb,sqlite,postgres']) {
      const ended = await sell('--databases', given)
      expect(ended.code).toBe(2)
      expect(onlyDocument(ended)).toMatchObject({ error: { code: 'usage' } })
      expect(ended.stdout + ended.stderr).not.toContain('secret')
    }
  })
})
