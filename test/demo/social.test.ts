import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { createRandom } from '../../src/std/random.ts'
import { get, type Node, post, social, startNode, temporaryFolder } from '../cli/headrace.ts'

const folder = temporaryFolder()
let node: Node

beforeAll(async () => {
  node = await startNode(social, join(folder.path, 'data'))
})
afterAll(async () => {
  await node.stop()
  folder.drop()
})

let ids = 0
const send = async (command: string, input: unknown): Promise<Record<string, unknown>> =>
  (await post(node.url, command, `id-${++ids}`, input)).body
const stats = async (post: string): Promise<Record<string, unknown>> => (await get(`${node.url}/queries/post.stats?post=${post}`)).body

describe('likes and comments', () => {
  it('count a like once per user, and take it back once', async () => {
    expect(await send('post.like', { post: 'p1', user: 'ann' })).toMatchObject({ status: 'committed', result: { liked: true } })
    expect(await send('post.like', { post: 'p1', user: 'ann' })).toMatchObject({ status: 'committed', result: { liked: false } })
    expect(await send('post.like', { post: 'p1', user: 'bob' })).toMatchObject({ result: { liked: true } })
    expect(await stats('p1')).toMatchObject({ likes: 2, comments: 0 })
    expect(await send('post.unlike', { post: 'p1', user: 'ann' })).toMatchObject({ status: 'committed' })
    expect(await send('post.unlike', { post: 'p1', user: 'ann' })).toMatchObject({ status: 'rejected', code: 'not-liked' })
    expect(await stats('p1')).toMatchObject({ likes: 1 })
  })

  it('show comments newest first, and refuse links', async () => {
    for (const text of ['one', 'two'])
      expect(await send('post.comment', { post: 'p2', user: 'ann', text })).toMatchObject({ status: 'committed' })
    expect(await send('post.comment', { post: 'p2', user: 'ann', text: 'see http://x' })).toMatchObject({
      status: 'rejected',
      code: 'no-links',
    })
    expect(await send('post.comment', { post: 'p2', user: 'ann', text: '   ' })).toMatchObject({ code: 'input-invalid' })
    expect(await stats('p2')).toEqual({
      post: 'p2',
      likes: 0,
      comments: 2,
      latest: [
        { user: 'ann', text: 'two' },
        { user: 'ann', text: 'one' },
      ],
    })
  })

  it('keep the counters equal to what was said, when many do all of it at once on a post that goes viral', async () => {
    const seed = Math.floor(Math.random() * 2 ** 32)
    const random = createRandom(seed)
    const users = Array.from({ length: 20 }, (_, n) => `user-${n}`)
    // Each user waits for an answer before the next move: what they last did is known.
    const liked = new Map<string, boolean>()
    let comments = 0
    await Promise.all(
      users.map(async (user) => {
        const own = random.fork(user)
        for (let n = 0; n < 20; n++) {
          const move = own.pick(['post.like', 'post.unlike', 'post.comment'])
          const { status } = await send(move, { post: 'viral', user, ...(move === 'post.comment' ? { text: 'hi' } : {}) })
          if (move === 'post.like') liked.set(user, true)
          if (move === 'post.unlike') expect(status, `seed ${seed}`).toBe(liked.get(user) === true ? 'committed' : 'rejected')
          if (move === 'post.unlike') liked.set(user, false)
          if (move === 'post.comment') comments += 1
        }
      }),
    )
    expect(await stats('viral'), `seed ${seed}`).toMatchObject({ likes: [...liked.values()].filter(Boolean).length, comments })
  })
})
