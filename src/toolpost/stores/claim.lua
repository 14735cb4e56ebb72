-- Takes the claim KEYS[1], or says how it stands. KEYS[2] is the set of open claims, KEYS[3] where fences come from.
-- ARGV: its name in the set, fingerprint, owner, lease, 1 to take over, 1 to run a failed one again, tool, tenant.
local row = read(KEYS[1])
local fingerprint, lease_end = ARGV[2], now + tonumber(ARGV[4])
local taken_over = false
if row then
  if fingerprint ~= '' and row.fingerprint ~= '' and row.fingerprint ~= fingerprint then
    return answer(row, 'mismatch')
  end
  taken_over = row.standing == 'unknown'
  if not (taken_over and ARGV[5] == '1' or row.standing == 'failed' and ARGV[6] == '1') then
    return answer(row, row.standing)
  end
  if taken_over and fingerprint == '' then
    fingerprint = row.fingerprint
  end
end
local granted = {
  fence = text(fresh(KEYS[3])), owner = ARGV[3], lease_end = lease_end, began = now, tool = ARGV[7], tenant = ARGV[8],
}
redis.call(
  'HSET', KEYS[1], 's', 'in_flight', 'f', granted.fence, 'p', fingerprint, 'o', granted.owner,
  'u', text(lease_end), 'b', text(now), 't', granted.tool, 'n', granted.tenant
)
redis.call('HDEL', KEYS[1], 'r', 'x')
redis.call('PERSIST', KEYS[1])
redis.call('ZADD', KEYS[2], text(lease_end), ARGV[1])
return answer(granted, 'granted', taken_over)
