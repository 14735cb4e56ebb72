-- Begins every script about claims. A claim is a hash:
-- s state  f fence  p fingerprint ('' or '=' and it)  o owner  u end of the lease  b when it began
-- r result, if there is one  x when a done or failed one is over  t tool  n tenant
-- Claims in flight or unknown have no expiry and stand in a sorted set, by when their holder falls or fell silent.
local function read(key)
  local v = redis.call('HMGET', key, 's', 'f', 'p', 'o', 'u', 'b', 'r', 'x', 't', 'n')
  if not v[1] or (v[8] and tonumber(v[8]) <= now) then
    return nil
  end
  local silent = v[1] == 'in_flight' and tonumber(v[5]) <= now
  return {
    state = v[1], fence = v[2], fingerprint = v[3], owner = v[4], lease_end = tonumber(v[5]), began = tonumber(v[6]),
    result = v[7], tool = v[9], tenant = v[10], standing = silent and 'unknown' or v[1],
  }
end

-- What Python makes a Claim of.
local function answer(row, state, taken_over)
  local left = (state == 'granted' or state == 'in_flight') and row.lease_end - now or 0
  local result = (state == 'done' or state == 'failed' or state == 'unknown') and row.result
  return {state, row.fence, taken_over and 1 or 0, result, left, row.began, row.owner, row.tool, row.tenant}
end
