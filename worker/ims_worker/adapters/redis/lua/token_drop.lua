-- Drop a refused token, unless it was replaced. KEYS: token, refresh pause. ARGV: SHA-256 of the
-- token. Returns 1, or 0 when it stays because new tokens are refused as well.
if redis.call('HGET', KEYS[1], 'sha') ~= ARGV[1] then
  return 1
end
if redis.call('EXISTS', KEYS[2]) == 1 then
  return 0
end
redis.call('DEL', KEYS[1])
return 1
