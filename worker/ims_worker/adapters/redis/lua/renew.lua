-- Renew the leases of a living worker; a lease that another message has taken over is skipped.
-- KEYS: due, generation. ARGV: lease in ms, then id, generation, id, generation, …
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
for i = 2, #ARGV, 2 do
  if redis.call('HGET', KEYS[2], ARGV[i]) == ARGV[i + 1] then
    redis.call('ZADD', KEYS[1], 'XX', now + ARGV[1], ARGV[i])
  end
end
return 1
