-- Reads the value KEYS[1]. ARGV: what the keys of tags begin with.
-- Answers {value, microseconds until it is stale, until it is gone}, or nothing. A tag that has lost its mark is void.
local packed = redis.call('GET', KEYS[1])
if not packed then
  return false
end
local value, stale_at, gone_at, marks = unpack(cmsgpack.unpack(packed))
local valid = now < gone_at
for i = 1, #marks, 2 do
  valid = valid and redis.call('GET', ARGV[1] .. marks[i]) == marks[i + 1]
end
if not valid then
  redis.call('UNLINK', KEYS[1])
  return false
end
return {value, math.max(0, stale_at - now), gone_at - now}
