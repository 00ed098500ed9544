import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { z } from 'zod'
import type { Participant } from '../../contracts/participant.ts'
import type { SagaLog } from '../../contracts/saga.ts'
import { mysql } from '../../drivers/mysql/index.ts'
import { postgres } from '../../drivers/postgres/index.ts'
import { sagaLogConformance } from '../../testing/saga-log-conformance.ts'
import { type Server, serverMissing, startMariadb, startPostgres } from '../../testing/servers/index.ts'
import { TcpProxy } from '../../testing/tcp-proxy.ts'
import { enqueueSaga } from './new-run.ts'
import { createOrchestrator } from './orchestrator.ts'
import { participantSagaLog } from './participant-log.ts'
import { defineSaga } from './saga.ts'
import { mysqlSagaSql, postgresSagaSql } from './tables.ts'

const engines = [
  { engine: 'postgres', missing: serverMissing('postgres'), start: startPostgres },
  { engine: 'mariadb', missing: serverMissing('mariadb'), start: startMariadb },
] as const

for (const { engine, missing, start } of engines) {
  describe.skipIf(missing !== null)(`a saga log in a database${missing === null ? '' : ` (${missing})`}`, () => {
    let server: Server
    const participants: Participant[] = []

    const connect = async (url = server.url): Promise<Participant> => {
      const participant =
        engine === 'postgres'
          ? await postgres('sagas', { url, schema: postgresSagaSql }).connect()
          : await mysql('sagas', { url, schema: mysqlSagaSql }).connect()
      participants.push(participant)
      return participant
    }
    beforeAll(async () => {
      server = await start()
      await (await connect()).migrate()
      await (await connect()).migrate()
    }, 60_000)
    afterAll(async () => {
      await Promise.all(participants.map((each) => each.close()))
      await server?.stop()
    })

    let shared = 0
    sagaLogConformance({ describe, it }, engine, {
      // Clients of the log share a few participants: connections are dear.
      open: async (): Promise<SagaLog> => {
        if (participants.length < 5) await connect()
        shared += 1
        return participantSagaLog(participants[shared % participants.length] as Participant)
      },
    })

    it('tells the truth about a commit whose connection was lost', async () => {
      const proxy = await TcpProxy.to(Number(new URL(server.url).port))
      try {
        const through = await connect(server.url.replace(/:\d+\//, `:${proxy.port}/`))
        const log = participantSagaLog(through)
        await log.start({ id: 'lost', name: 'saga/lost', gid: 'test_1', input: '{}', owner: 'me' })
        let after = 0
        for (let number = 0; number < 10; number += 1) {
          const write = log.append({ id: 'lost', epoch: 1, after, records: [String(number)] })
          await new Promise(setImmediate)
          if (number % 2 === 0) setTimeout(() => proxy.drop(), number)
          const code = await write.then(
            () => null,
            (error: { code: string }) => error.code,
          )
          const [run] = await participantSagaLog(participants[0] as Participant).read(['lost'])
          // Told that it happened, it did; told that it did not, it did not.
          expect([code, run?.records]).toEqual([code, code === null ? after + 1 : after])
          after = run?.records ?? 0
        }
        await log.close()
      } finally {
        await proxy.close()
      }
    })

    it('works for two orchestrators, and for runs that the app starts in its own commit', async () => {
      const did: string[] = []
      const saga = defineSaga('mail', {
        input: z.object({ to: z.string() }),
        steps: (steps) =>
          steps
            .step('write', { do: ({ input, id }) => did.push(id) > 0 && `dear ${input.to}`, undo: () => undefined })
            .step('send', { do: ({ results }) => results.write, final: true }),
      })
      const [participant] = participants as [Participant]
      const enqueue = async (id: string, ends: 'commit' | 'abort'): Promise<void> => {
        const branch = await participant.begin({ gid: `enqueue_${id}_${ends}`, statementTimeoutMs: 5_000 })
        expect(await enqueueSaga(branch.database, saga, id, { to: 'ann' }, { deployment: 'test' })).toBe(true)
        await branch[ends]()
      }
      const open = (index: number) =>
        createOrchestrator({
          deployment: 'test',
          log: participantSagaLog(participants[index] as Participant),
          runs: [saga],
          pollMs: 10,
          beatMs: 50,
          leaseMs: 200,
        })
      const both = [open(0), open(1)] as const
      const ids = Array.from({ length: 20 }, (_, index) => `m${index}`)
      await Promise.all(ids.slice(0, 10).map((id) => both[0].start(saga, id, { to: 'ann' })))
      for (const id of ids.slice(10)) {
        await enqueue(id, 'abort')
        expect(await both[1].get(id)).toBeNull()
        await enqueue(id, 'commit')
      }
      both[1].wake()
      for (const id of ids)
        expect(await both[1].wait(saga, id)).toEqual({ status: 'completed', results: { write: 'dear ann', send: 'dear ann' } })
      expect(did.sort()).toEqual([...ids].sort())
      await Promise.all(both.map((each) => each.close()))
    })
  })
}
