-- Store a new token, and end backoff and pause. KEYS: token, backoff, pause.
-- ARGV: fencing number, SHA-256 of the token, encrypted auth state, life in ms.
-- Returns 0 when a later owner of the lock has stored a token: a slow login must not overwrite it.
if tonumber(redis.call('HGET', KEYS[1], 'gen') or '0') > tonumber(ARGV[1]) then
  return 0
end
redis.call('HSET', KEYS[1], 'gen', ARGV[1], 'sha', ARGV[2], 'state', ARGV[3])
redis.call('PEXPIRE', KEYS[1], ARGV[4])
redis.call('DEL', KEYS[2], KEYS[3])
return 1
