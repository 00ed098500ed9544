/** Takes a lock, says so, and holds it until it is killed: `holder.ts URL KEY TTL`. */
import { redisLocks } from 'headrace/redis'
import { createLocks } from 'headrace/lock'

const [url, key, ttl] = process.argv.slice(2) as [string, string, string]
const locks = createLocks(redisLocks({ url }), { ttlMs: Number(ttl) })
await locks.acquire(key)
process.stdout.write('held\n')
setInterval(() => {}, 60_000)
