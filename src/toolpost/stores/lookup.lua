-- Says how the claim KEYS[1] stands.
local row = read(KEYS[1])
return row and answer(row, row.standing) or false
