-- Set the next due time and the poll state, if this message still has the lease.
-- KEYS: due, generation, live. ARGV: import id, generation, pause in ms, poll state JSON.
-- Returns 1, or 0 when a newer message has the import.
if redis.call('HGET', KEYS[2], ARGV[1]) ~= ARGV[2] then
  return 0
end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('ZADD', KEYS[1], now + ARGV[3], ARGV[1])
redis.call('HSET', KEYS[3], ARGV[1], ARGV[4])
return 1
