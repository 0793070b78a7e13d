-- A worker is gone: its heartbeat lapsed, or it says so itself. End its leases and tell the producers.
-- KEYS[1] root of the fleet
-- ARGV 1 worker  2 boot  3 cause, in words  4 ms to keep state  5 ms to keep a result
-- Returns 1 when nothing of the worker is left, 0 when this pass was not enough: run it again.
local worker, boot, cause, now = ARGV[1], ARGV[2], ARGV[3], now_ms()
local known = redis.call('HGET', worker_key(worker), 'boot')
if known and known ~= boot then return 1 end
for i, t in ipairs(redis.call('SMEMBERS', leases_key(worker))) do
  -- A pass is bounded, so that a large worker's end does not hold Redis up.
  if i > 50 then return 0 end
  local l = redis.call('HMGET', lease_key(t), 'worker', 'boot', 'state')
  if l[1] == worker and l[2] == boot and l[3] ~= 'closed' then
    if l[3] == 'closing' then
      lose(t, worker, cause, tonumber(ARGV[4]))
      redis.call('HSET', lease_key(t), 'state', 'closed')
    else
      lose(t, worker, cause, tonumber(ARGV[4]))
    end
  else
    redis.call('SREM', leases_key(worker), t)
  end
end
redis.call('ZREM', workers_key(), worker)
redis.call('DEL', worker_key(worker), leases_key(worker))
return 1
