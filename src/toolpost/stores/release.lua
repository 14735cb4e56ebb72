-- Gives the claim KEYS[1] back. KEYS[2] is the set of open claims. ARGV: its name in the set, fence.
local held = redis.call('HMGET', KEYS[1], 's', 'f')
if (held[1] ~= 'in_flight' and held[1] ~= 'unknown') or held[2] ~= ARGV[2] then
  return 0
end
redis.call('DEL', KEYS[1])
redis.call('ZREM', KEYS[2], ARGV[1])
return 1
