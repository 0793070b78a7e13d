-- A worker says that it lives, what it can take, and which leases it believes to hold.
-- KEYS[1] root of the fleet
-- ARGV 1 worker  2 boot  3 ms until the heartbeat lapses  4 ms to keep state  5 ms to keep a result
--      6 facts (JSON object: fields of the worker hash)  7 number n of leases  then n pairs: trajectory, epoch
-- Returns {lost, unknown, orphaned, closing, forgotten}, five lists of trajectories:
--   lost      believed to be held, but held elsewhere or closed: drop them
--   unknown   assigned to this worker, though it does not know of them: trajectory, epoch, ...
--   orphaned  held, but their producer's heartbeat lapsed
--   closing   held, closed by their producer, and without open calls: end them, should the message not have come
--   forgotten believed to be held, and nobody is known to have held them later: Redis has lost its state, announce them
local worker, boot, ttl, keep_ms, result_ms = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local now, facts, flat = now_ms(), cjson.decode(ARGV[6]), {}
for field, value in pairs(facts) do
  flat[#flat + 1] = field
  flat[#flat + 1] = tostring(value)
end
-- Fields of an earlier process under the same name must not linger.
if redis.call('HGET', worker_key(worker), 'boot') ~= boot then redis.call('DEL', worker_key(worker)) end
redis.call('HSET', worker_key(worker), 'boot', boot, unpack(flat))
redis.call('PEXPIRE', worker_key(worker), keep_ms)
redis.call('ZADD', workers_key(), now + ttl, worker)
redis.call('PEXPIRE', workers_key(), keep_ms)
local lost, unknown, orphaned, closing, forgotten, known = {}, {}, {}, {}, {}, {}
for i = 8, 7 + 2 * tonumber(ARGV[7]), 2 do
  local t, epoch = ARGV[i], ARGV[i + 1]
  if holds(t, boot, epoch) then
    known[t] = true
    redis.call('PEXPIRE', lease_key(t), keep_ms)
    local l = redis.call('HMGET', lease_key(t), 'producer', 'state')
    if redis.call('EXISTS', producer_key(l[1])) == 0 then orphaned[#orphaned + 1] = t end
    if l[2] == 'closing' and redis.call('ZCARD', calls_key(t)) == 0 then closing[#closing + 1] = t end
  elseif tonumber(redis.call('HGET', lease_key(t), 'epoch') or 0) < tonumber(epoch) then
    known[t] = true
    forgotten[#forgotten + 1] = t
    -- Its slot is taken before anybody who waits can get it; an announcement that is refused gives it back.
    if redis.call('EXISTS', lease_key(t)) == 0 then redis.call('SADD', leases_key(worker), t) end
  else
    lost[#lost + 1] = t
  end
end
local ownerless = {}
for _, t in ipairs(redis.call('SMEMBERS', leases_key(worker))) do
  if not known[t] then
    local l = redis.call('HMGET', lease_key(t), 'worker', 'boot', 'epoch', 'state')
    if l[1] ~= worker or l[4] == 'closed' or l[4] == 'lost' then
      redis.call('SREM', leases_key(worker), t)
    elseif l[2] == boot then
      unknown[#unknown + 1] = t
      unknown[#unknown + 1] = l[3]
    else
      ownerless[#ownerless + 1] = t
    end
  end
end
-- The process that held them is gone: this one came up under its name before anyone recovered them. Only now, when
-- every slot that is free is known to be: this worker may be the one with the most room.
for i = 1, math.min(#ownerless, PASS) do
  lose(ownerless[i], worker, 'worker ' .. worker .. ' restarted', now, keep_ms, result_ms)
end
redis.call('PEXPIRE', leases_key(worker), keep_ms)
seat_waiters(worker, now, keep_ms)
return {lost, unknown, orphaned, closing, forgotten}
