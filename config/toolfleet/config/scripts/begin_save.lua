-- The holder is about to save its workspace, for other trajectories to start from: from now on somebody looks after the
-- snapshot, whatever becomes of the holder.
-- KEYS[1] root of the fleet
-- ARGV 1 trajectory  2 boot  3 epoch  4 call id  5 name of the snapshot  6 backend  7 place  8 hash of its spec
--      9 ms that saving may take  10 ms to keep state
-- Returns 1, or 0 when the lease is not the worker's or nobody wants the call any more.
local t, id, name, now = ARGV[1], ARGV[4], ARGV[5], now_ms()
local c = redis.call('HMGET', call_key(id), 'state', 'producer', 'snapshot')
if c[1] ~= 'started' or not holds(t, ARGV[2], ARGV[3]) then return 0 end
-- What an earlier holder has begun for the same call is wanted no more.
if c[3] and c[3] ~= name then disown(id, now) end
redis.call('HSET', call_key(id), 'snapshot', name)
redis.call('HSET', snapshot_key(name), 'backend', ARGV[6], 'place', ARGV[7], 'spec', ARGV[8], 'producer', c[2], 'id', '')
redis.call('PEXPIRE', snapshot_key(name), tonumber(ARGV[10]))
redis.call('ZADD', snapshots_key(), now + tonumber(ARGV[9]), name)
redis.call('PEXPIRE', snapshots_key(), tonumber(ARGV[10]))
return 1
