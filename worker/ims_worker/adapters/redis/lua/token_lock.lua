-- Lock the login. KEYS: lock, fence. ARGV: owner, life of the lock in ms.
-- Returns a fencing number, or 0 while another worker has the lock.
if redis.call('SET', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[2]) then
  return redis.call('INCR', KEYS[2])
end
return 0
