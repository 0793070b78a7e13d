-- Redis does not know a lease that a worker holds: it has lost its state, and learns it again from the holder.
-- KEYS[1] root of the fleet
-- ARGV 1 trajectory  2 worker  3 boot  4 epoch  5 ms to keep state
--      6 what the lease is (JSON object: fields of the lease hash)  7 its age in ms
-- Returns 1, or 0 when somebody holds the trajectory under this epoch or a higher one: the worker has lost it.
local key, epoch = lease_key(ARGV[1]), tonumber(ARGV[4])
if tonumber(redis.call('HGET', key, 'epoch') or 0) >= epoch then
  return holds(ARGV[1], ARGV[3], ARGV[4]) and 1 or 0
end
local now = now_ms()
local other = redis.call('HGET', key, 'worker')
if other then redis.call('SREM', leases_key(other), ARGV[1]) end
for field, value in pairs(cjson.decode(ARGV[6])) do redis.call('HSET', key, field, tostring(value)) end
redis.call('HSET', key, 'state', 'active', 'worker', ARGV[2], 'boot', ARGV[3], 'epoch', epoch, 'active', now,
  'since', now - tonumber(ARGV[7]))
redis.call('PEXPIRE', key, ARGV[5])
redis.call('SADD', leases_key(ARGV[2]), ARGV[1])
redis.call('PEXPIRE', leases_key(ARGV[2]), ARGV[5])
return 1
