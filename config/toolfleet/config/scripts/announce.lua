-- Redis does not know a lease that a worker holds: it has lost its state, and learns it again from the holder.
-- KEYS[1] root of the fleet
-- ARGV 1 trajectory  2 worker  3 boot  4 epoch  5 ms to keep state  6 ms to keep a result
--      7 what the lease is (JSON object: fields of the lease hash)  8 its age in ms
-- Returns 1 when the lease is the worker's, 0 when the trajectory was closed or begun anew, or is held elsewhere.
local t, worker, boot, epoch, keep_ms = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5])
if holds(t, boot, ARGV[4]) then return 1 end
local now, lease = now_ms(), cjson.decode(ARGV[7])
local l = redis.call('HMGET', lease_key(t), 'state', 'worker', 'epoch', 'sandbox_id')
if l[1] then
  -- Whoever was led to another workspace stays there: the loss of this one has been told, or the trajectory is over.
  -- But the same workspace may be known under an older epoch, from a holder of then or from an older state of Redis.
  if tonumber(l[3] or 0) >= epoch or not l[4] or l[4] == '' or l[4] ~= lease.sandbox_id then
    -- A heartbeat may have kept a slot for it.
    if l[2] ~= worker then redis.call('SREM', leases_key(worker), t) end
    return 0
  end
  redis.call('SREM', leases_key(l[2]), t)
end
-- Who waits for a slot, not knowing that there is one, need not wait any more.
local waiting = redis.call('HGET', waiter_key(t), 'producer')
lease.producer = waiting or lease.producer
for field, value in pairs(lease) do redis.call('HSET', lease_key(t), field, tostring(value)) end
redis.call('HSET', lease_key(t), 'state', l[1] == 'closing' and 'closing' or 'active', 'worker', worker, 'boot', boot,
  'epoch', ARGV[4], 'active', now, 'since', now - tonumber(ARGV[8]))
redis.call('PEXPIRE', lease_key(t), keep_ms)
redis.call('SADD', leases_key(worker), t)
redis.call('PEXPIRE', leases_key(worker), keep_ms)
if l[1] then follow(t, l[2], keep_ms, tonumber(ARGV[6])) end
if waiting then
  leave_room(t)
  reply(waiting, 'placed', t, cjson.encode({worker = worker, boot = boot, epoch = epoch}), keep_ms)
end
return 1
