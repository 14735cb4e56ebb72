-- Takes one of the places KEYS[1], a sorted set of holders by the end of their lease. ARGV: holder, limit, lease.
-- Answers 0 when it is had, else microseconds until the oldest lease ends.
local key, holder, limit, lease = KEYS[1], ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
redis.call('ZREMRANGEBYSCORE', key, '-inf', text(now))
if not redis.call('ZSCORE', key, holder) and redis.call('ZCARD', key) >= limit then
  local oldest = redis.call('ZRANGE', key, 0, 0, 'WITHSCORES')
  return oldest[2] and math.max(1, oldest[2] - now) or lease
end
redis.call('ZADD', key, text(now + lease), holder)
local last = redis.call('ZRANGE', key, -1, -1, 'WITHSCORES')
redis.call('PEXPIRE', key, text(math.ceil((last[2] - now) / 1000) + 1))
return 0
