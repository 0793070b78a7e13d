-- The holder ends a lease: the sandbox is destroyed, its slot goes to whoever waited longest.
-- KEYS[1] root of the fleet
-- ARGV 1 trajectory  2 worker  3 boot  4 epoch  5 ms to keep state
-- Returns {1 when it was the worker's, waiters seated}.
local now, keep_ms = now_ms(), tonumber(ARGV[5])
local mine = holds(ARGV[1], ARGV[3], ARGV[4])
if mine then
  -- The tombstone turns late calls away and keeps the epoch rising.
  redis.call('HSET', lease_key(ARGV[1]), 'state', 'closed')
  redis.call('HDEL', lease_key(ARGV[1]), 'setup', 'boot', 'lost')
  redis.call('PEXPIRE', lease_key(ARGV[1]), keep_ms)
  redis.call('SREM', leases_key(ARGV[2]), ARGV[1])
end
return {mine and 1 or 0, seat_waiters(ARGV[2], now, keep_ms)}
