-- The worker takes up a lease that was assigned to it, before it spends a sandbox on it.
-- KEYS[1] root of the fleet
-- ARGV 1 trajectory  2 boot  3 epoch
-- Returns {} when the lease is not the worker's, else {profile, setup, generation, lost, producer}; `lost` names the
-- cause of a loss that no reply has told yet; the result that tells it clears it (finish).
if not holds(ARGV[1], ARGV[2], ARGV[3]) then return {} end
local key = lease_key(ARGV[1])
local l = redis.call('HMGET', key, 'profile', 'setup', 'generation', 'lost', 'producer', 'state')
if l[6] == 'assigned' then redis.call('HSET', key, 'state', 'active') end
return {l[1], l[2], l[3], l[4] or '', l[5]}
