import pg from 'pg'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { type Server, serverMissing, startPostgres } from '../../testing/servers/index.ts'
import { postgresQueue } from './queue.ts'

const missing = serverMissing('postgres')

describe.skipIf(missing !== null)(`appends on PostgreSQL${missing === null ? '' : ` (${missing})`}`, () => {
  let server: Server
  beforeAll(async () => {
    server = await startPostgres()
  })
  afterAll(() => server.stop())

  it('cost as much for each message in a large call as in a small one: nothing is compared with everything', async () => {
    const engine = postgresQueue({ url: server.url })
    const client = new pg.Client({ connectionString: server.url })
    try {
      await engine.declare({ name: 'plans', partitions: 2, groups: ['g'], messagesMax: 10_000 })
      await client.connect()
      const plans: string[] = []
      client.on('notice', ({ message }) => plans.push(message ?? ''))
      await client.query(
        "load 'auto_explain'; set auto_explain.log_min_duration = 0; set auto_explain.log_nested_statements = on; set auto_explain.log_analyze = on; set auto_explain.log_level = notice",
      )
      const messages = Array.from({ length: 500 }, (_, n) => ({ p: n % 2, i: `id-${n}`, k: 'k', h: '{}', b: '{}', t: 1, a: null }))
      const { rows } = await client.query('select state from headrace_queue1_append(1, $1, $2)', [[0, 1], JSON.stringify(messages)])
      expect(rows).toHaveLength(500)
      const plan = plans.find((each) => each.includes('json_to_recordset'))
      expect(plan).toContain('rows=500')
      // Rows that a step has looked at and thrown away: of a comparison of all with all, a quarter of a million.
      const removed = [...(plan ?? '').matchAll(/Rows Removed by (?:Join )?Filter: (\d+)/g)].map(([, count]) => Number(count))
      expect(Math.max(0, ...removed)).toBeLessThanOrEqual(500)
    } finally {
      await client.end()
      await engine.close()
    }
  })
})
