/**
 * The bus of the cache as scripts, over one hash:
 *
 *   e    epoch: a random name, made when the hash is
 *   b    when the epoch began
 *   s    number of the last message of the epoch
 *   n<client>   until when the client trusts its L1
 *
 * Times are milliseconds of the server. Messages are numbered in the step that
 * publishes them, so every listener gets them in order, without a hole.
 */

const prelude = `
local B = KEYS[1]
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local function text(number) return string.format('%.0f', number) end
local epoch = redis.call('HGET', B, 'e')
if not epoch then
  epoch = ARGV[2]
  redis.call('HSET', B, 'e', epoch, 'b', text(now), 's', 0)
end
`

/** ARGV: client, epoch to begin if there is none, trustMs. Answers epoch and number of the last message. */
const renew = `
redis.call('HSET', B, 'n' .. ARGV[1], text(now + tonumber(ARGV[3])))
return { epoch, tonumber(redis.call('HGET', B, 's')) }
`

/** ARGV: client. */
const leave = `
redis.call('HDEL', KEYS[1], 'n' .. ARGV[1])
return 1
`

/**
 * ARGV: client, epoch to begin if there is none, trustMs, message. Answers epoch,
 * number, how long trust from before the epoch may last, how many heard it, and
 * for every other client that has trust its name and the rest of it.
 */
const publish = (channel: string): string => `
local number = redis.call('HINCRBY', B, 's', 1)
local fields = redis.call('HGETALL', B)
local answer = { epoch, number, 0, 0 }
for i = 1, #fields, 2 do
  local name = fields[i]
  if string.sub(name, 1, 1) == 'n' then
    local left = tonumber(fields[i + 1]) - now
    if left <= 0 then
      redis.call('HDEL', B, name)
    elseif name ~= 'n' .. ARGV[1] then
      answer[#answer + 1] = string.sub(name, 2)
      answer[#answer + 1] = left
    end
  elseif name == 'b' then
    answer[3] = math.max(0, tonumber(fields[i + 1]) + tonumber(ARGV[3]) - now)
  end
end
answer[4] = redis.call('PUBLISH', '${channel}', epoch .. ' ' .. text(number) .. ' ' .. ARGV[1] .. '\\n' .. ARGV[4])
return answer
`

export function busScripts(channel: string) {
  return { renew: prelude + renew, leave, publish: prelude + publish(channel) }
}
