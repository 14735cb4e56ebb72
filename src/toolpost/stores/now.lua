-- Begins every script that needs the time: the server's own, in microseconds, one moment for the whole script.
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]

local function text(number)
  return string.format('%.0f', number)
end

-- A number that was never given before and never will be. It follows the clock, so that it does not begin again when
-- the server has lost what it knew, and counts up should the clock stand or go back.
local function fresh(key)
  local number = math.max(now, tonumber(redis.call('GET', key) or 0) + 1)
  redis.call('SET', key, text(number))
  return number
end
