-- Reads the marks of the tags KEYS, after KEYS[1], where fresh numbers come from. ARGV: for how many ms they are good.
-- A tag without a mark gets one that was never used, so a mark that expires, or is evicted, or is deleted by void(),
-- makes entries invalid and never valid again: which a counter that begins anew at 0 would.
local marks = {}
for i = 2, #KEYS do
  local mark = redis.call('GET', KEYS[i])
  if not mark then
    mark = text(fresh(KEYS[1]))
    redis.call('SET', KEYS[i], mark, 'PX', ARGV[1])
  elseif redis.call('PTTL', KEYS[i]) < tonumber(ARGV[1]) then
    redis.call('PEXPIRE', KEYS[i], ARGV[1])
  end
  marks[i - 1] = mark
end
return marks
