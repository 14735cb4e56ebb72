-- Drops the claim KEYS[1] unless somebody holds it. KEYS[2] is the set of open claims. ARGV: its name in the set.
local row = read(KEYS[1])
if not row or row.standing == 'in_flight' then
  return 0
end
redis.call('DEL', KEYS[1])
redis.call('ZREM', KEYS[2], ARGV[1])
return 1
