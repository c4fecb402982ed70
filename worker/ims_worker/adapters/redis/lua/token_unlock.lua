-- Unlock the login, unless the lock has passed to another owner. KEYS: lock. ARGV: owner.
if redis.call('GET', KEYS[1]) == ARGV[1] then
  return redis.call('DEL', KEYS[1])
end
return 0
