-- Take what is due: each import gets a lease and a new generation, so that an older message of
-- the same import ends at once.
-- KEYS: due, generation. ARGV: lease in ms, how many at most.
-- Returns {id, generation, id, generation, …}.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local ids = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, ARGV[2])
local taken = {}
for _, id in ipairs(ids) do
  redis.call('ZADD', KEYS[1], now + ARGV[1], id)
  taken[#taken + 1] = id
  taken[#taken + 1] = redis.call('HINCRBY', KEYS[2], id, 1)
end
return taken
