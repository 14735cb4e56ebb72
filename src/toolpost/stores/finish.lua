-- Says how the claim KEYS[1] ended. KEYS[2] is the set of open claims.
-- ARGV: its name in the set, fence, state, for how many microseconds to keep it; result, if there is one.
-- Answers whether it stands so: not when another has taken over.
local row = read(KEYS[1])
if not row or row.fence ~= ARGV[2] then
  return 0
end
local state, result = ARGV[3], ARGV[5] or false
if row.state == 'done' or row.state == 'failed' or (row.state == 'unknown' and state == 'unknown') then
  return row.state == state and row.result == result and 1 or 0
end
redis.call('HSET', KEYS[1], 's', state)
if result then
  redis.call('HSET', KEYS[1], 'r', result)
else
  redis.call('HDEL', KEYS[1], 'r') -- what was told with an unknown end
end
if state ~= 'unknown' then
  local life = tonumber(ARGV[4])
  redis.call('HSET', KEYS[1], 'x', text(now + life))
  redis.call('PEXPIRE', KEYS[1], text(math.ceil(life / 1000)))
  redis.call('ZREM', KEYS[2], ARGV[1])
else
  local silent_since = text(math.min(row.lease_end, now))
  redis.call('HSET', KEYS[1], 'u', silent_since)
  redis.call('ZADD', KEYS[2], silent_since, ARGV[1])
end
return 1
