-- Keeps a value under KEYS[1], unless a mark of its tags, the other KEYS, has changed. Answers whether it was kept.
-- ARGV: value, microseconds until it is stale, and then until it is gone; tag and mark of each tag.
local marks = {}
for i = 2, #KEYS do
  local tag, mark = ARGV[2 * i], ARGV[2 * i + 1]
  if redis.call('GET', KEYS[i]) ~= mark then
    return 0
  end
  marks[2 * i - 3], marks[2 * i - 2] = tag, mark
end
local stale_at = now + tonumber(ARGV[2])
local gone_at = stale_at + tonumber(ARGV[3])
local life_ms = math.ceil((gone_at - now) / 1000)
redis.call('SET', KEYS[1], cmsgpack.pack({ARGV[1], stale_at, gone_at, marks}), 'PX', text(life_ms))
for i = 2, #KEYS do
  if redis.call('PTTL', KEYS[i]) < life_ms then
    redis.call('PEXPIRE', KEYS[i], text(life_ms))
  end
end
return 1
