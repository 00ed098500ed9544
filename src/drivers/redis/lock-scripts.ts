/**
 * The lock protocol as scripts: Redis runs each as one step, alone.
 *
 * The state of one lock is one string, named by KEYS[1], in one of three forms:
 *
 *   f<last>                                    free, nobody waits
 *   x<last> <keep> <permits> <limit> <id>      one holder, nobody waits
 *   m<last> <limit> <used> <earliest> <seq>    anything else
 *
 * where `last` is the last token in 16 digits, `used` the permits taken,
 * `earliest` a moment before which no lease ends, and `seq` the number of the
 * last waiter. In form x the token is the moment of the grant too, and the lease
 * lasts for `keep` less `memory` from then on. Only the form m has more: the holders in `:h`, a hash from id to "permits token
 * expiry"; the queue in `:q`, a sorted set of ids in order of arrival; and `:w`,
 * a hash from id to "permits ttl deadline". Their names are made from KEYS[1] in
 * the script (they share its hash tag, so its slot): less to send in the case
 * that matters, an uncontended lock. Its calls only read and write the one
 * string, and calculate nothing: numbers of 16 digits compare as text, and the
 * token is the clock as it was read. That made them half as long.
 *
 * Times are milliseconds of the server's clock, tokens its microseconds, or one
 * more than the last token where that is higher. The last token is kept for
 * `memory` milliseconds after the last lease, in case the clock is set back.
 * Calculated numbers go through %.0f: Lua would write large ones as 1.7e+15.
 */
import { wholeLimit } from '../../contracts/lock.ts'

export interface LockScriptOptions {
  readonly prefix: string
  /** Pushes go over the shard that holds the lock: only there does the answer count the listeners. */
  readonly cluster: boolean
  readonly waitersMax: number
  readonly memoryMs: number
}

const clock = `
local time = redis.call('TIME')
local us = time[1] * 1000000 + time[2]
local now = math.floor(us / 1000)
`

/** Of form x: the token, the rest up to the id, the id. */
const holderPattern = "'^x(%d+) (%d+) (%d+) (%d+) (.*)$'"

/**
 * The contended case, over the state that `value` holds: leases that are over
 * end, then waiters are served while the head of the queue fits. `PUBLISH`
 * answers how many clients got the push: a waiter whose client does not listen
 * is dead, and is skipped.
 */
const machine = ({ prefix, cluster, memoryMs }: LockScriptOptions): string => `
local H, Q, W = L .. ':h', L .. ':q', L .. ':w'
local last, limit, used, earliest, seq = 0, 0, 0, 0, 0
local waiting = 0

local function text(number) return string.format('%.0f', number) end

if value then
  local form = string.sub(value, 1, 1)
  if form == 'f' then
    last = tonumber(string.sub(value, 2))
  elseif form == 'x' then
    local t, k, p, l, who = string.match(value, ${holderPattern})
    last, limit, used = tonumber(t), tonumber(l), tonumber(p)
    earliest = math.floor(last / 1000) + k - ${memoryMs}
    redis.call('HSET', H, who, p .. ' ' .. t .. ' ' .. text(earliest))
  else
    local t, l, u, e, s = string.match(value, '^m(%d+) (%d+) (%d+) (%d+) (%d+)$')
    last, limit, used, earliest, seq = tonumber(t), tonumber(l), tonumber(u), tonumber(e), tonumber(s)
    waiting = redis.call('ZCARD', Q)
  end
end
local before = last
local kept = 0

local function keep(ms)
  if ms > kept then kept = ms end
end

local function sweep()
  used, earliest = 0, 0
  local fields = redis.call('HGETALL', H)
  for i = 1, #fields, 2 do
    local p, x = string.match(fields[i + 1], '^(%d+) %d+ (%d+)$')
    p, x = tonumber(p), tonumber(x)
    if x <= now then
      redis.call('HDEL', H, fields[i])
    else
      used = used + p
      if earliest == 0 or x < earliest then earliest = x end
    end
  end
end

local function grant(who, p, ttl)
  last = math.max(last + 1, us)
  used = used + p
  local x = now + ttl
  if earliest == 0 or x < earliest then earliest = x end
  redis.call('HSET', H, who, p .. ' ' .. text(last) .. ' ' .. text(x))
  keep(ttl)
end

local function drop(who)
  redis.call('ZREM', Q, who)
  redis.call('HDEL', W, who)
  waiting = waiting - 1
end

local function tell(who, word)
  local client = string.match(who, '^(.*)/')
  return redis.call(${cluster ? "'SPUBLISH', L .. ':c:'" : `'PUBLISH', '${prefix}wake:'`} .. client, word .. ' ' .. who)
end

local function serve()
  if used == 0 then earliest = 0 elseif earliest <= now then sweep() end
  while waiting > 0 do
    local head = redis.call('ZRANGE', Q, 0, 0)[1]
    local entry = redis.call('HGET', W, head)
    local p, ttl, deadline = string.match(entry or '0 0 0', '^(%d+) (%d+) (%d+)$')
    p, ttl, deadline = tonumber(p), tonumber(ttl), tonumber(deadline)
    if deadline <= now then
      drop(head)
    elseif used + p > limit then
      -- With a part of the limit free, a dead head would keep others waiting for nothing.
      if used == limit or tell(head, 'p 0') > 0 then break end
      drop(head)
    elseif tell(head, 'g ' .. text(math.max(last + 1, us))) == 0 then
      drop(head)
    else
      drop(head)
      grant(head, p, ttl)
    end
  end
end

local function save()
  local left = redis.call('PTTL', L)
  local ms = math.max(kept + ${memoryMs}, left)
  if used == 0 and waiting == 0 then
    redis.call('PSETEX', L, ms, string.format('f%016.0f', last))
  else
    redis.call('PSETEX', L, ms, string.format('m%016.0f', last) .. ' ' .. limit .. ' ' .. used .. ' ' .. text(earliest) .. ' ' .. text(seq))
    for _, name in ipairs({ H, Q, W }) do redis.call('PEXPIRE', name, ms) end
  end
end

local function endsIn()
  if used == 0 then return 0 end
  return math.max(earliest - now, 0)
end
`

/**
 * KEYS[1] lock; ARGV id, ttl + memory, wait, floor in 16 digits, and ' permits
 * limit ' unless it is all of the limit. Answers the token as text, or { state,
 * token or limit, ms, tokenBefore }.
 *
 * PSETEX, and not SET with PX: inside a script that takes twice as long, since
 * the server writes it anew for its replicas.
 */
const acquire = (rest: string, { waitersMax, memoryMs }: LockScriptOptions): string => `
local L, id = KEYS[1], ARGV[1]
local value = redis.call('GET', L)
local time = redis.call('TIME')
if not value or string.byte(value) == 102 then
  local token = time[1] .. string.sub('00000' .. time[2], -6)
  if token > ARGV[4] and (not value or token > string.sub(value, 2)) then
    redis.call('PSETEX', L, ARGV[2], 'x' .. token .. ' ' .. ARGV[2] .. (ARGV[5] or ' ${wholeLimit} ${wholeLimit} ') .. id)
    return token
  end
end
local us = time[1] * 1000000 + time[2]
local now = math.floor(us / 1000)
local permits, asked = string.match(ARGV[5] or ' ${wholeLimit} ${wholeLimit} ', ' (%d+) (%d+) ')
permits, asked = tonumber(permits), tonumber(asked)
local ttl, floor = ARGV[2] - ${memoryMs}, tonumber(ARGV[4])
${rest}
if floor > last then last = floor end
serve()
local mine = redis.call('HGET', H, id)
if mine then
  save()
  local token, x = string.match(mine, '^%d+ (%d+) (%d+)$')
  return { 1, tonumber(token), tonumber(x) - now, before }
end
if redis.call('HEXISTS', W, id) == 1 then
  save()
  return { 0, before, endsIn(), before }
end
if used == 0 and waiting == 0 then limit = asked end
if limit ~= asked then
  save()
  return { -2, limit, 0, before }
end
if waiting == 0 and used + permits <= limit then
  grant(id, permits, ttl)
  save()
  return { 1, last, ttl, before }
end
local wait = tonumber(ARGV[3])
if wait == 0 then
  save()
  return { -1, before, endsIn(), before }
end
if waiting >= ${waitersMax} then
  save()
  return { -3, before, 0, before }
end
seq = seq + 1
redis.call('ZADD', Q, seq, id)
redis.call('HSET', W, id, permits .. ' ' .. ttl .. ' ' .. text(now + wait))
waiting = waiting + 1
keep(wait + ttl)
save()
return { 0, before, endsIn(), before }
`

/** KEYS[1] lock; ARGV id. Answers 1 when it was the one holder, or { held, tokenBefore }. */
const release = (rest: string): string => `
local L, id = KEYS[1], ARGV[1]
local value = redis.call('GET', L)
if not value then return { 0, 0 } end
if string.byte(value) == 120 then
  local token = string.sub(value, 2, 17)
  if string.sub(value, -#id - 1) ~= ' ' .. id then return { 0, tonumber(token) } end
  redis.call('SET', L, 'f' .. token, 'KEEPTTL')
  return 1
end
${clock}
${rest}
local found = 0
local mine = redis.call('HGET', H, id)
if mine then
  redis.call('HDEL', H, id)
  used = used - tonumber(string.match(mine, '^%d+'))
  found = 1
elseif redis.call('HEXISTS', W, id) == 1 then
  drop(id)
  found = 1
end
serve()
save()
return { found, before }
`

/** KEYS[1] lock; ARGV id token ttl. Answers 1 when it is the one holder, or { held, tokenBefore }. */
const extend = ({ memoryMs }: LockScriptOptions): string => `
local L, id = KEYS[1], ARGV[1]
local value = redis.call('GET', L)
if not value then return { 0, 0 } end
${clock}
local ends = now + ARGV[3]
if string.byte(value) == 120 then
  local token, k, p, l, who = string.match(value, ${holderPattern})
  local from = math.floor(tonumber(token) / 1000)
  if who ~= id or tonumber(token) ~= tonumber(ARGV[2]) or from + k - ${memoryMs} <= now then return { 0, tonumber(token) } end
  redis.call('PSETEX', L, ARGV[3] + ${memoryMs}, string.format('x%s %.0f %s %s %s', token, ends - from + ${memoryMs}, p, l, id))
  return 1
end
local last = tonumber(string.match(value, '^.(%d+)'))
local mine = redis.call('HGET', L .. ':h', id)
if not mine then return { 0, last } end
local p, token, x = string.match(mine, '^(%d+) (%d+) (%d+)$')
if tonumber(token) ~= tonumber(ARGV[2]) or tonumber(x) <= now then return { 0, last } end
redis.call('HSET', L .. ':h', id, string.format('%s %s %.0f', p, token, ends))
-- With other holders, the earliest end stays as it is: too early is allowed, and is put right when it is reached.
local t, l, used, e, seq = string.match(value, '^m(%d+) (%d+) (%d+) (%d+) (%d+)$')
if used == p then e = string.format('%.0f', ends) end
local ms = math.max(ARGV[3] + ${memoryMs}, redis.call('PTTL', L))
redis.call('PSETEX', L, ms, 'm' .. t .. ' ' .. l .. ' ' .. used .. ' ' .. e .. ' ' .. seq)
for _, name in ipairs({ ':h', ':q', ':w' }) do redis.call('PEXPIRE', L .. name, ms) end
return { 1, last }
`

/** KEYS[1] lock; ARGV id (empty for all holders). Answers how many were broken. */
const breakHolders = (rest: string): string => `
local L, id = KEYS[1], ARGV[1]
local value = redis.call('GET', L)
if not value then return 0 end
${clock}
${rest}
local broken = 0
for _, who in ipairs(redis.call('HKEYS', H)) do
  if id == '' or id == who then
    redis.call('HDEL', H, who)
    tell(who, 'b 0')
    broken = broken + 1
  end
end
sweep()
serve()
save()
return broken
`

/** KEYS[1] lock. Answers { now, value, waiters, holders … }. */
const status = `
${clock}
return { now, redis.call('GET', KEYS[1]) or '', redis.call('ZCARD', KEYS[1] .. ':q'), redis.call('HGETALL', KEYS[1] .. ':h') }
`

export interface LockScripts {
  readonly acquire: string
  readonly release: string
  readonly extend: string
  readonly break: string
  readonly status: string
}

export function lockScripts(options: LockScriptOptions): LockScripts {
  const rest = machine(options)
  return { acquire: acquire(rest, options), release: release(rest), extend: extend(options), break: breakHolders(rest), status }
}
