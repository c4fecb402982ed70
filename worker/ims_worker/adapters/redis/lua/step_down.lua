-- Give up leadership at once instead of letting it expire. KEYS: leader. ARGV: worker.
if redis.call('GET', KEYS[1]) == ARGV[1] then
  return redis.call('DEL', KEYS[1])
end
return 0
