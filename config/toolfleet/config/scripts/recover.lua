-- A worker is gone: its heartbeat lapsed, or it says so itself. Hand its leases over where another worker reaches their
-- sandboxes, end the others, and tell the producers.
-- KEYS[1] root of the fleet
-- ARGV 1 worker  2 boot  3 cause, in words  4 ms to keep state  5 ms to keep a result
--      6 unless empty: do nothing before its heartbeat has lapsed for so many ms; it may have come back meanwhile
--      7 unless empty: do nothing after this time; the command waited for a Redis that was away, as others may have
-- Returns 1 when nothing of the worker is left, 0 when this pass was not enough: run it again.
local worker, boot, cause, keep_ms, result_ms = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5])
local now = now_ms()
if (ARGV[7] or '') ~= '' and now > tonumber(ARGV[7]) then return 1 end
local known = redis.call('HGET', worker_key(worker), 'boot')
if known and known ~= boot then return 1 end
if ARGV[6] ~= '' and alive(worker, boot, now, tonumber(ARGV[6])) then return 1 end
-- It inherits nothing of itself.
if known then redis.call('HSET', worker_key(worker), 'accepting', '0') end
for i, t in ipairs(redis.call('SMEMBERS', leases_key(worker))) do
  if i > PASS then return 0 end
  local l = redis.call('HMGET', lease_key(t), 'worker', 'state')
  -- Whatever its boot: an earlier process of that name is gone as well.
  if l[1] == worker and l[2] ~= 'closed' and l[2] ~= 'lost' then
    lose(t, worker, cause, now, keep_ms, result_ms)
  else
    redis.call('SREM', leases_key(worker), t)
  end
end
redis.call('ZREM', workers_key(), worker)
redis.call('DEL', worker_key(worker), leases_key(worker))
return 1
