-- End a look with "look again": set the next time, if this message still holds the import.
-- KEYS: due, generation, live. ARGV: id, generation, pause in ms, live JSON.
-- Returns 1, or 0 when a newer message holds the import.
if redis.call('HGET', KEYS[2], ARGV[1]) ~= ARGV[2] then
  return 0
end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('ZADD', KEYS[1], now + ARGV[3], ARGV[1])
redis.call('HSET', KEYS[3], ARGV[1], ARGV[4])
return 1
