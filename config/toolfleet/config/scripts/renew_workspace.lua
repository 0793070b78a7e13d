-- The holder found its sandbox gone and will begin again with an empty workspace.
-- KEYS[1] root of the fleet
-- ARGV 1 trajectory  2 boot  3 epoch
-- Returns the generation, or 0 when the lease is not the worker's. It rises when something had started in the old
-- workspace; asking twice raises it once.
if not holds(ARGV[1], ARGV[2], ARGV[3]) then return 0 end
local key = lease_key(ARGV[1])
if redis.call('HGET', key, 'used') ~= '1' then return tonumber(redis.call('HGET', key, 'generation')) end
redis.call('HSET', key, 'used', '0')
return redis.call('HINCRBY', key, 'generation', 1)
