-- Lists open claims whose holder has fallen silent. KEYS[1] is the set of open claims.
-- ARGV: what the keys of claims begin with, how many at most. Answers {name, claim, name, claim, ...}.
local found, gone = {}, {}
local offset, limit = 0, tonumber(ARGV[2])
repeat
  local names = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', text(now), 'LIMIT', offset, limit)
  for _, name in ipairs(names) do
    local row = read(ARGV[1] .. name)
    if not row or row.standing ~= 'unknown' then
      gone[#gone + 1] = name -- somebody deleted its hash by hand
    elseif #found < 2 * limit then
      found[#found + 1] = name
      found[#found + 1] = answer(row, 'unknown')
    end
  end
  offset = offset + limit
until #names == 0 or #found >= 2 * limit
for _, name in ipairs(gone) do
  redis.call('ZREM', KEYS[1], name)
end
return found
