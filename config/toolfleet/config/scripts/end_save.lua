-- The holder has saved its workspace.
-- KEYS[1] root of the fleet
-- ARGV 1 trajectory  2 boot  3 epoch  4 call id  5 name of the snapshot  6 its id, by which sandboxes start from it
--      7 ms until somebody looks whether it is still wanted  8 ms to keep state  then the trajectories that shall start from it
-- Returns 1, or 0 when the lease is not the worker's or nobody wants the call any more: then it goes.
local t, id, name, now = ARGV[1], ARGV[4], ARGV[5], now_ms()
local c = redis.call('HMGET', call_key(id), 'state', 'snapshot')
if redis.call('EXISTS', snapshot_key(name)) == 0 then return 0 end
redis.call('HSET', snapshot_key(name), 'id', ARGV[6])
if c[1] ~= 'started' or c[2] ~= name or not holds(t, ARGV[2], ARGV[3]) then
  redis.call('ZADD', snapshots_key(), 'XX', now, name)
  return 0
end
for i = 9, #ARGV do redis.call('SADD', forks_key(name), ARGV[i]) end
redis.call('PEXPIRE', forks_key(name), tonumber(ARGV[8]))
redis.call('ZADD', snapshots_key(), now + tonumber(ARGV[7]), name)
return 1
