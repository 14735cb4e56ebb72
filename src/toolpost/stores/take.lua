-- Takes one token from each bucket KEYS, or from none. ARGV: rate a second and burst of each.
-- Answers {microseconds until the slowest would grant it, its index}, or {0, -1}.
-- A bucket is the moment at which it will be full again, which says the same as its level (GCRA: ITU-T I.371, annex A)
-- and is when it can be forgotten. Moments count from 2023-11-14, so that a double holds them to 1/64 microsecond.
local moment = now - 1700000000000000
local longest, slowest, full_at = 0.1, -1, {}
for i, key in ipairs(KEYS) do
  local interval = 1000000 / tonumber(ARGV[2 * i - 1])
  local full = math.max(moment, tonumber(redis.call('GET', key) or moment))
  local wait = full - moment - (tonumber(ARGV[2 * i]) - 1) * interval
  if wait > longest then
    longest, slowest = wait, i - 1
  end
  full_at[i] = full + interval
end
if slowest >= 0 then
  return {math.ceil(longest), slowest}
end
for i, key in ipairs(KEYS) do
  local life_ms = math.ceil((full_at[i] - moment) / 1000) + 1
  redis.call('SET', key, string.format('%.17g', full_at[i]), 'PX', text(life_ms))
end
return {0, -1}
