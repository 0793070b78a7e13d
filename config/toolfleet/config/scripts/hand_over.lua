-- The holder leaves, and another worker goes on with the workspace.
-- KEYS[1] root of the fleet
-- ARGV 1 trajectory  2 worker  3 boot  4 epoch  5 ms to keep state  6 ms to keep a result
-- Returns 1 when the lease is with another worker now, 0 when no other can take it.
if not holds(ARGV[1], ARGV[3], ARGV[4]) then return 1 end
local l = redis.call('HMGET', lease_key(ARGV[1]), 'place', 'profile')
local heir = pick_heir(l[1], l[2], now_ms())
if not heir or heir == ARGV[2] then return 0 end
hand_over(ARGV[1], ARGV[2], heir, tonumber(ARGV[5]), tonumber(ARGV[6]))
return 1
