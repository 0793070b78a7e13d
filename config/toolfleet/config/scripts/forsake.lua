-- The holder cannot start the first workspace from its snapshot, which is gone: a loss like any other.
-- KEYS[1] root of the fleet
-- ARGV 1 trajectory  2 boot  3 epoch  4 cause, in words
-- Returns the generation of the workspace after it, or 0 when the lease is not the worker's. Asking twice changes
-- nothing more.
if not holds(ARGV[1], ARGV[2], ARGV[3]) then return 0 end
local key = lease_key(ARGV[1])
local origin = redis.call('HGET', key, 'origin')
if origin then
  redis.call('HDEL', key, 'origin')
  let_go(origin, ARGV[1], now_ms())
  redis.call('HSET', key, 'lost', ARGV[4])
  redis.call('HINCRBY', key, 'generation', 1)
end
return tonumber(redis.call('HGET', key, 'generation'))
