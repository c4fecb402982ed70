-- Claim due imports: each gets a lease and a new generation, so that older messages of the same
-- import end immediately.
-- KEYS: due, generation. ARGV: lease in ms, maximum number of imports.
-- Returns {id, generation, id, generation, …}.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local ids = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, ARGV[2])
local claimed = {}
for _, id in ipairs(ids) do
  redis.call('ZADD', KEYS[1], now + ARGV[1], id)
  claimed[#claimed + 1] = id
  claimed[#claimed + 1] = redis.call('HINCRBY', KEYS[2], id, 1)
end
return claimed
