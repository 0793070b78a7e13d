-- The holder has made a sandbox: from now on another worker that reaches its place can go on with the workspace.
-- KEYS[1] root of the fleet
-- ARGV 1 trajectory  2 boot  3 epoch  4 sandbox (JSON)  5 its id  6 its place; empty when nobody else reaches it
-- Returns the generation of the workspace, or 0 when the lease is not the worker's.
if not holds(ARGV[1], ARGV[2], ARGV[3]) then return 0 end
local key = lease_key(ARGV[1])
local l = redis.call('HMGET', key, 'sandbox_id', 'used', 'origin')
if l[2] == '1' and l[1] ~= ARGV[5] then
  -- The holder could not renounce the sandbox before this one, and has told its loss all the same.
  redis.call('HSET', key, 'used', '0')
  redis.call('HINCRBY', key, 'generation', 1)
end
if l[3] then
  -- A copy is worth something before anything has started in it: its loss would have to be told.
  redis.call('HSET', key, 'used', '1')
  redis.call('HDEL', key, 'origin')
  let_go(l[3], ARGV[1], now_ms())
end
redis.call('HSET', key, 'sandbox', ARGV[4], 'sandbox_id', ARGV[5], 'place', ARGV[6])
return tonumber(redis.call('HGET', key, 'generation'))
