-- The holder has made a sandbox: from now on another worker that reaches its place can go on with the workspace.
-- KEYS[1] root of the fleet
-- ARGV 1 trajectory  2 boot  3 epoch  4 sandbox (JSON)  5 its id  6 its place; empty when nobody else reaches it
-- Returns 1, or 0 when the lease is not the worker's.
if not holds(ARGV[1], ARGV[2], ARGV[3]) then return 0 end
redis.call('HSET', lease_key(ARGV[1]), 'sandbox', ARGV[4], 'sandbox_id', ARGV[5], 'place', ARGV[6])
return 1
