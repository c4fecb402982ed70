-- Become or stay the leader. KEYS: leader. ARGV: worker, term in ms. Returns 1, or 0 while another
-- worker leads.
local leader = redis.call('GET', KEYS[1])
if leader and leader ~= ARGV[1] then
  return 0
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
