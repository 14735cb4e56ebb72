-- Answers how many tokens each bucket KEYS holds now, as text, and takes none. ARGV: rate a second and burst of each.
local moment = now - 1700000000000000
local levels = {}
for i, key in ipairs(KEYS) do
  local interval = 1000000 / tonumber(ARGV[2 * i - 1])
  local full = math.max(moment, tonumber(redis.call('GET', key) or moment))
  levels[i] = string.format('%.17g', math.max(0, tonumber(ARGV[2 * i]) - (full - moment) / interval))
end
return levels
