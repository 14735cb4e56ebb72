-- Lengthens leases. KEYS[1] is the set of open claims, the others are claims. ARGV: lease; name and fence of each.
-- Answers 1 for each that is still held, else 0.
local lease_end = text(now + tonumber(ARGV[1]))
local renewed = {}
for i = 2, #KEYS do
  local held = redis.call('HMGET', KEYS[i], 's', 'f')
  local ours = held[1] == 'in_flight' and held[2] == ARGV[2 * i - 1]
  if ours then
    redis.call('HSET', KEYS[i], 'u', lease_end)
    redis.call('ZADD', KEYS[1], lease_end, ARGV[2 * i - 2])
  end
  renewed[i - 1] = ours and 1 or 0
end
return renewed
