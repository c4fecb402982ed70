-- Lease an import to one message, unless a newer message of the same import exists.
-- KEYS: due, generation, live.
-- ARGV: import id, generation of the message ('' for a first message), lease in ms.
-- Returns {generation of the lease, poll state JSON or ''}; generation 0: the message is stale.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local current = redis.call('HGET', KEYS[2], ARGV[1])
if current and current ~= ARGV[2] then
  return {0, ''}
end
-- After a flush, generations restart at the clock, which is above all earlier generations.
local generation = current and current + 1 or now
redis.call('HSET', KEYS[2], ARGV[1], string.format('%.0f', generation))
redis.call('ZADD', KEYS[1], now + ARGV[3], ARGV[1])
return {generation, redis.call('HGET', KEYS[3], ARGV[1]) or ''}
