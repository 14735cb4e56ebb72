-- The circuit KEYS[1]; KEYS[2] is where the numbers of probes come from. The rules are told in circuits.py, and the
-- names here are those there. ARGV: admit, report, look or force; for the first two failures, recovery, half_open_calls,
-- error_rate or '', max_failures, window; for report also ok (1, 0 or ''), probe, cause; for force the state.
-- A circuit with nothing to remember has no key; one that nobody asks for is forgotten IDLE_MS after it may be tried.
local IDLE_MS, LOST_KEPT = 86400000, 16
local key, op = KEYS[1], ARGV[1]

if op == 'force' then
  redis.call('DEL', key)
  if ARGV[2] ~= '' then
    redis.call('HSET', key, 'forced', ARGV[2])
  end
  return 1
end

local stored = redis.call('HGETALL', key)
local c = {}
for i = 1, #stored, 2 do
  c[stored[i]] = stored[i + 1]
end
if c.forced then
  return {c.forced == 'closed' and 1 or 0, c.forced, 0, 0, '', 0, c.forced, 0}
end
c.state, c.window, c.cause = c.state or 'closed', c.window or '', c.cause or ''
for _, name in ipairs({'in_a_row', 'threshold', 'until', 'succeeded'}) do
  c[name] = tonumber(c[name] or 0)
end
c.places = tonumber(c.places or 1)
local probes = {}
for number, lost in string.gmatch(c.probes or '', '(%d+):(%d+)') do
  probes[#probes + 1] = {number = number, lost = tonumber(lost)}
end

local failures, recovery, half_open_calls = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local error_rate, max_failures, size = tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])

local function failed()
  return select(2, string.gsub(c.window, '1', ''))
end

local function live()
  local count, first = 0, nil
  for _, probe in ipairs(probes) do
    if probe.lost > now then
      count, first = count + 1, math.min(first or probe.lost, probe.lost)
    end
  end
  return count, first
end

local function save()
  if c.state == 'closed' and c.in_a_row == 0 and c.threshold == 0 and c.window == '' then
    if #stored > 0 then
      redis.call('DEL', key)
    end
    return
  end
  local listed = {}
  for i, probe in ipairs(probes) do
    listed[i] = probe.number .. ':' .. text(probe.lost)
  end
  redis.call(
    'HSET', key, 'state', c.state, 'in_a_row', c.in_a_row, 'window', c.window, 'threshold', c.threshold,
    'until', text(c['until']), 'cause', c.cause, 'succeeded', c.succeeded, 'places', c.places,
    'probes', table.concat(listed, ',')
  )
  redis.call('PEXPIRE', key, text(math.ceil(math.max(0, c['until'] - now) / 1000) + IDLE_MS))
end

local opened = 0

local function show(admitted, probe)
  local left = 0
  local state = c.state
  if state == 'open' and now < c['until'] then
    admitted, left = false, c['until'] - now
  elseif state ~= 'closed' then
    local taken, first = live()
    local room = state == 'open' or taken + c.succeeded < c.places
    state = 'half_open'
    if admitted == nil then
      admitted = room
    end
    left = not admitted and first and not room and first - now or 0
  end
  local shown = c.window ~= '' and failed() or c.in_a_row
  return {admitted ~= false and 1 or 0, state, probe or 0, left, c.cause, shown, '', opened}
end

local function open(cause)
  c.state, c.cause, c['until'] = 'open', cause, now + recovery
  probes, opened = {}, 1
end

local function close()
  c.state, c.in_a_row, c.window, c['until'], c.cause = 'closed', 0, '', 0, ''
  c.succeeded, c.places = 0, 1
  probes = {}
end

local function admit()
  if c.state == 'closed' or (c.state == 'open' and now < c['until']) then
    return show()
  end
  if c.state == 'open' then
    c.state, c.succeeded = 'half_open', 0
  end
  local changed = c.places ~= half_open_calls
  c.places = half_open_calls
  if c.succeeded >= c.places then
    close()
    save()
    return show()
  end
  if live() + c.succeeded >= c.places then
    if changed then
      save()
    end
    return show(false)
  end
  if #probes >= c.places + LOST_KEPT then
    for i, probe in ipairs(probes) do
      if probe.lost <= now then
        table.remove(probes, i)
        break
      end
    end
  end
  local number = fresh(KEYS[2])
  probes[#probes + 1] = {number = text(number), lost = now + recovery}
  save()
  return show(true, number)
end

local function counted(ok)
  c.in_a_row = ok and 0 or c.in_a_row + 1
  return c.in_a_row >= failures
end

local function judged(ok)
  local floor = math.min(failures, size)
  local ceiling = math.max(floor, math.min(max_failures, size))
  c.window = string.sub(c.window .. (ok and '0' or '1'), -size)
  c.threshold = math.min(math.max(c.threshold, floor), ceiling)
  local calls, bad = #c.window, failed()
  if bad >= error_rate * calls then
    if ok or calls < c.threshold then
      return false
    end
    c.threshold = math.max(floor, math.floor(c.threshold / 2))
    return true
  end
  if 2 * bad <= error_rate * calls then
    c.threshold = math.min(ceiling, c.threshold + 1)
  end
  return false
end

local function heard(ok, number, cause)
  for i, probe in ipairs(probes) do
    if probe.number == number then
      table.remove(probes, i)
      if ok == '0' then
        open(cause)
      elseif ok == '1' then
        c.succeeded = c.succeeded + 1
        if c.succeeded >= c.places then
          close()
        end
      end
      return save()
    end
  end
end

if op == 'admit' then
  return admit()
end
if op == 'report' then
  local ok, probe, cause = ARGV[8], ARGV[9], ARGV[10]
  if probe ~= '0' then
    heard(ok, probe, cause)
  elseif c.state == 'closed' and ok ~= '' then
    local before = c.in_a_row
    local trips
    if error_rate then
      trips = judged(ok == '1')
    else
      trips = counted(ok == '1')
    end
    if trips then
      open(cause)
    end
    if trips or error_rate or before ~= c.in_a_row then
      save()
    end
  end
end
return show()
