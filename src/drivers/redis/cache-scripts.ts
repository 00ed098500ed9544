/**
 * The cache protocol as scripts: Redis runs each as one step, alone. The layout
 * of a record is in `contracts/cache-record.ts`.
 *
 * Each script has one key, the record, and makes the name of the set of waiters
 * from it; both share a hash tag, so a slot of a cluster. A waiter is a client
 * that listens on a channel of its own; a fill tells each of them once.
 *
 * The lease is judged by the server's clock. A jump of that clock can let two
 * clients load at once; it cannot let an old value in, since a fill needs the
 * token of the latest lease.
 */
import { recordFormat } from '../../contracts/cache-record.ts'

/** `write` keeps a record for at least `keep` more milliseconds. */
const prelude = (channel: string): string => `
local K = KEYS[1]
local W = K .. ':w'
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local record, floor, version, fresh, below, lease, token, leaseFloor
local function read(whole)
  if whole then record = redis.call('GET', K) or '' else record = redis.call('GETRANGE', K, 0, 65) end
  if string.len(record) >= 66 and string.byte(record, 1) == 72 and string.byte(record, 2) == ${recordFormat} then
    floor, version, fresh, below, lease, token, leaseFloor = struct.unpack('>ddddd' .. 'c16' .. 'd', record, 3)
  else
    floor, version, fresh, below, lease, token, leaseFloor = 0, -1, 0, 0, 0, string.rep('-', 16), 0
    record = ''
  end
end

local function head()
  return 'H' .. string.char(${recordFormat}) .. struct.pack('>ddddd', floor, version, fresh, below, lease) .. token .. struct.pack('>d', leaseFloor)
end

local function write(keep)
  if record == '' then
    redis.call('SET', K, head(), 'PX', keep)
  else
    redis.call('SETRANGE', K, 0, head())
    local left = redis.call('PTTL', K)
    if left >= 0 and left < keep then redis.call('PEXPIRE', K, keep) end
  end
end

local function raise(to)
  floor = to
  if version >= 0 and version < floor and below == 0 then below = now end
end

local function wake()
  local waiters = redis.call('SMEMBERS', W)
  if #waiters == 0 then return end
  redis.call('DEL', W)
  for _, waiter in ipairs(waiters) do redis.call('PUBLISH', '${channel}' .. waiter, K) end
end

local function endLease()
  lease = 0
  token = string.rep('-', 16)
end
`

/** ARGV: floor, minVersion, leaseMs, refresh, token, client, keepMs. Answers state, now, milliseconds of the lease, record. */
const lease = `
local asked, least, leaseMs, keep = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[7])
read(true)
local raised = asked > floor
if raised then raise(asked) end
local hit = version >= floor and version >= least and version >= 0 and fresh > now
if hit and ARGV[4] ~= '1' then
  if raised then write(keep) end
  return { 0, now, 0, head() .. string.sub(record, 67) }
end
if lease > now and leaseFloor >= floor then
  if raised then write(keep) end
  redis.call('SADD', W, ARGV[6])
  redis.call('PEXPIRE', W, keep)
  return { 2, now, lease - now, head() .. string.sub(record, 67) }
end
lease, token, leaseFloor = now + leaseMs, ARGV[5], floor
write(math.max(keep, 2 * leaseMs))
return { 1, now, leaseMs, head() .. string.sub(record, 67) }
`

/** ARGV: token or '', version or '', raise, freshMs, keepMs, body, floorKeepMs. Answers 1 stored, 2 below the floor, 3 superseded; and now. */
const fill = `
read(false)
if ARGV[1] ~= '' and ARGV[1] ~= token then return { 3, now } end
local v = ARGV[2] == '' and floor or tonumber(ARGV[2])
if ARGV[3] == '1' and v > floor then raise(v) end
endLease()
if v < floor or (ARGV[2] ~= '' and v < version) then
  write(tonumber(ARGV[7]))
  wake()
  return { 2, now }
end
version, fresh, below = v, now + tonumber(ARGV[4]), 0
local keep = tonumber(ARGV[5])
if floor > 0 then keep = math.max(keep, tonumber(ARGV[7])) end
redis.call('SET', K, head() .. ARGV[6], 'PX', keep)
wake()
return { 1, now }
`

/** ARGV: token, keepMs. */
const release = `
read(false)
if ARGV[1] ~= token then return 0 end
endLease()
if version < 0 and floor == 0 then redis.call('DEL', K) else write(tonumber(ARGV[2])) end
wake()
return 1
`

/** ARGV: token, leaseMs. */
const extend = `
read(false)
if ARGV[1] ~= token then return 0 end
lease = now + tonumber(ARGV[2])
write(2 * tonumber(ARGV[2]))
return 1
`

/** ARGV: version or '', keepMs. */
const change = `
local keep = tonumber(ARGV[2])
read(false)
if ARGV[1] ~= '' then
  local v = tonumber(ARGV[1])
  if v > floor then
    raise(v)
    write(keep)
  end
  return 1
end
if floor == 0 then
  redis.call('DEL', K)
else
  version, fresh, below = -1, 0, 0
  endLease()
  redis.call('SET', K, head(), 'PX', keep)
end
wake()
return 1
`

/** The mark of a tag is "stamp floor". ARGV: version, '' for a cut or '?' to look; new stamp, keepMs. Answers stamp and floor. */
const mark = `
local old = redis.call('GET', KEYS[1])
local stamp, floor
if old then stamp, floor = string.match(old, '^(%S+) (%d+)$') end
floor = tonumber(floor or '0')
if not stamp or ARGV[1] == '' then stamp = ARGV[2] end
if ARGV[1] ~= '' and ARGV[1] ~= '?' then floor = math.max(floor, tonumber(ARGV[1])) end
local new = stamp .. ' ' .. string.format('%.0f', floor)
redis.call('SET', KEYS[1], new, 'PX', ARGV[3])
return new
`

/** Writes a text unless there is one, and keeps it. ARGV: text, keepMs. Answers what is there. */
const claim = `
local found = redis.call('GET', KEYS[1])
if not found then
  redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
  return ARGV[1]
end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return found
`

/** `channel` starts the name of every waiter's channel; letters, digits, `:`, `_`, `.`, `-` only, since it becomes part of a script. */
export function cacheScripts(channel: string) {
  const start = prelude(channel)
  return { lease: start + lease, fill: start + fill, release: start + release, extend: start + extend, change: start + change, mark, claim }
}
