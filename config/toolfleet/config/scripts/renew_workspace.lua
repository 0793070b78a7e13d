-- The holder found its sandbox gone and will begin again with an empty workspace.
-- KEYS[1] root of the fleet
-- ARGV 1 trajectory  2 boot  3 epoch
-- Returns the new generation, or 0 when the lease is not the worker's.
if not holds(ARGV[1], ARGV[2], ARGV[3]) then return 0 end
return redis.call('HINCRBY', lease_key(ARGV[1]), 'generation', 1)
