-- Add imports that the ledger has and the schedule has lost, due now; others stay as they are.
-- KEYS: due, generation. ARGV: import ids. Returns how many were added.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local restored = 0
for _, id in ipairs(ARGV) do
  if redis.call('ZADD', KEYS[1], 'NX', now, id) == 1 then
    redis.call('HSETNX', KEYS[2], id, string.format('%.0f', now))
    restored = restored + 1
  end
end
return restored
