/**
 * Likes and comments with counters, in two databases: what was said, and the
 * counts that every page shows. A post that goes viral is one hot row.
 *
 *   npx headrace start examples/social/app.ts
 */
import { accept, command, defineApp, query, reject } from 'headrace'
import { sqlite } from 'headrace/sqlite'
import { z } from 'zod'

const content = sqlite('content', {
  schema: `create table if not exists likes (
    post text not null,
    user text not null,
    primary key (post, user)
  ) without rowid;
  create table if not exists comments (
    id text primary key not null,
    post text not null,
    user text not null,
    text text not null,
    position integer not null
  ) without rowid;
  create index if not exists comments_post on comments (post, position)`,
})

const counters = sqlite('counters', {
  schema: `create table if not exists posts (
    post text primary key not null,
    likes integer not null,
    comments integer not null
  ) without rowid`,
})

const reference = z.string().regex(/^[\w-]{1,64}$/)
const likeInput = z.object({ post: reference, user: reference })
type Like = { post: string; user: string }

/** One text per pair; neither part can hold a slash. */
const pair = ({ post, user }: Like): string => `${post}/${user}`

/**
 * Likes a post. To like it again changes nothing and is no error: the answer
 * says whether it was new.
 */
export const like = command('post.like', {
  summary: 'Like a post; once per user.',
  input: likeInput,
  key: ({ post }) => post,
  databases: { content, counters },
  // Which of these pairs are there already, in one statement.
  async load(batch, databases) {
    const pairs = JSON.stringify(batch.map(({ input }) => input))
    const rows = await databases.content.sql<Like>`
      select likes.post, likes.user from json_each(${pairs}) as wanted
      join likes on likes.post = wanted.value ->> 'post' and likes.user = wanted.value ->> 'user'`
    return { liked: new Set(rows.map(pair)) }
  },
  decide({ liked }, input) {
    if (liked.has(pair(input))) return accept({ liked: false })
    liked.add(pair(input))
    return accept({ liked: true })
  },
  async save(_state, accepted, databases) {
    const fresh = accepted.filter(({ result }) => result.liked).map(({ input }) => input)
    await databases.content.insertMany('likes', fresh)
    await databases.counters.upsertMany('posts', 'post', tally(fresh), { add: ['likes', 'comments'] })
  },
})

/** Takes a like back. */
export const unlike = command('post.unlike', {
  summary: 'Take a like back.',
  input: likeInput,
  key: ({ post }) => post,
  databases: { content, counters },
  async run({ input, databases }) {
    const gone = await databases.content.sql`delete from likes where post = ${input.post} and user = ${input.user} returning user`
    if (gone.length === 0) return reject('not-liked', `${input.user} has not liked ${input.post}.`)
    await databases.counters.addMany('posts', 'post', [{ post: input.post, likes: -1 }])
    return accept()
  },
})

/** Comments on a post, one command at a time: the simple form. */
export const comment = command('post.comment', {
  summary: 'Comment on a post.',
  input: z.object({ post: reference, user: reference, text: z.string().trim().min(1).max(2_000) }),
  key: ({ post }) => post,
  databases: { content, counters },
  async run({ id, input, position, databases }) {
    if (/https?:\/\//i.test(input.text)) return reject('no-links', 'Comments cannot hold links.')
    await databases.content.insertMany('comments', [{ id, ...input, position }])
    await databases.counters.upsertMany('posts', 'post', [{ post: input.post, likes: 0, comments: 1 }], { add: ['likes', 'comments'] })
    return accept({ comment: id })
  },
})

/** What a page shows below a post. */
export const postStats = query('post.stats', {
  summary: 'The counts of a post and its latest comments.',
  input: z.object({ post: reference }),
  databases: { content, counters },
  async load({ post }, databases) {
    const [counts] = await databases.counters.selectIn<{ likes: number; comments: number }>('posts', 'post', [post], {
      columns: ['likes', 'comments'],
    })
    const latest = await databases.content.sql`select user, text from comments where post = ${post} order by position desc limit 10`
    return { post, likes: counts?.likes ?? 0, comments: counts?.comments ?? 0, latest }
  },
})

/** New likes per post. */
function tally(likes: readonly Like[]): { post: string; likes: number; comments: number }[] {
  const counts = new Map<string, number>()
  for (const { post } of likes) counts.set(post, (counts.get(post) ?? 0) + 1)
  return [...counts].map(([post, count]) => ({ post, likes: count, comments: 0 }))
}

export default defineApp({ name: 'social', commands: [like, unlike, comment], queries: [postStats] })
