-- Find the lease of a trajectory, or make one, or put the trajectory in the waiting room.
-- KEYS[1] root of the fleet
-- ARGV 1 trajectory  2 producer  3 profile  4 sweep  5 setup (JSON)  6 size of a profile's room  7 ms it may wait  8 ms to keep state
--      9 ms to keep a result  10 ms of grace for a holder whose heartbeat has lapsed
--      11 epoch under which the producer knew the trajectory to be held; zero when it knew of none
--      12 what to do when Redis does not know it any more: empty to ask its holder to come forward; `tell` or `told` to
--         begin anew, with the loss to be told by the next reply or told already
--      13 snapshot from which its first workspace starts, or empty  14 place that the worker must reach, or empty
-- Returns {verdict, worker, boot, epoch}; verdicts:
--   held      the lease exists and its holder is alive, or may still come back
--   assigned  a slot was reserved just now
--   waiting   in the waiting room; a `placed` notice will come on the reply stream
--   full      the waiting room is full
--   closed    the trajectory was closed
--   forgotten Redis has lost its state; the holder may live and announce itself with its next heartbeat
--   unserved  no live worker serves the profile, or none of those reaches the place
local t, producer, keep_ms = ARGV[1], ARGV[2], tonumber(ARGV[8])
local now = now_ms()
local want = {producer = producer, profile = ARGV[3], sweep = ARGV[4], setup = ARGV[5], origin = ARGV[13]}
local key = room_of(want.profile, ARGV[14])
local l = redis.call('HMGET', lease_key(t), 'state', 'worker', 'boot', 'epoch')
if l[1] == 'closed' or l[1] == 'closing' then return {'closed'} end
if l[1] and l[1] ~= 'lost' then
  if alive(l[2], l[3], now, tonumber(ARGV[10])) then
    redis.call('HSET', lease_key(t), 'producer', producer)
    return {'held', l[2], l[3], l[4]}
  end
  -- The holder's heartbeat lapsed: another takes its place, or the next reply must tell the loss.
  if lose(t, l[2], 'worker ' .. l[2] .. ' died', now, keep_ms, tonumber(ARGV[9])) then
    redis.call('HSET', lease_key(t), 'producer', producer)
    l = redis.call('HMGET', lease_key(t), 'worker', 'boot', 'epoch')
    return {'held', l[1], l[2], l[3]}
  end
end
if not l[1] and tonumber(ARGV[11]) > 0 then
  if ARGV[12] == '' then return {'forgotten'} end
  -- Nobody came forward. From here on it is a loss like any other: noted until a reply has told it, however long the
  -- trajectory waits for a slot, and under an epoch that rises.
  redis.call('HSET', lease_key(t), 'state', 'lost', 'worker', '', 'boot', '', 'epoch', ARGV[11], 'generation', 2,
    'lost', ARGV[12] == 'tell' and 'Redis lost its state' or '', 'used', '0', 'producer', producer)
  redis.call('PEXPIRE', lease_key(t), keep_ms)
end
local worker, served = pick_worker(want.profile, ARGV[14], now)
if redis.call('EXISTS', waiter_key(t)) == 1 then
  if ARGV[14] ~= '' and not served then
    -- Who is bound to a place waits for nobody else: its producer may look elsewhere.
    leave_room(t)
    return {'unserved'}
  end
  -- It waits in one room: who asks for another place moves there, and has waited as long.
  local waits = redis.call('HMGET', waiter_key(t), 'profile', 'place')
  local room = room_of(waits[1], waits[2])
  local since = redis.call('ZSCORE', room, t) or now
  redis.call('ZREM', room, t)
  redis.call('ZADD', key, since, t)
  redis.call('HSET', waiter_key(t), 'producer', producer, 'profile', want.profile, 'origin', want.origin,
    'place', ARGV[14], 'until', now + tonumber(ARGV[7]))
  redis.call('PEXPIRE', key, keep_ms)
  redis.call('PEXPIRE', waiter_key(t), keep_ms)
  return {'waiting'}
end
-- A newcomer never overtakes those who wait for the same.
if redis.call('ZCARD', key) > 0 then worker = nil end
if worker then
  local boot, epoch = assign(t, worker, want, now, keep_ms)
  return {'assigned', worker, boot, tostring(epoch)}
end
if not served then return {'unserved'} end
if redis.call('ZCARD', key) >= tonumber(ARGV[6]) then return {'full'} end
redis.call('ZADD', key, now, t)
redis.call('HSET', waiter_key(t), 'producer', producer, 'profile', want.profile, 'sweep', want.sweep,
  'setup', want.setup, 'origin', want.origin, 'place', ARGV[14], 'until', now + tonumber(ARGV[7]))
redis.call('PEXPIRE', key, keep_ms)
redis.call('PEXPIRE', waiter_key(t), keep_ms)
return {'waiting'}
