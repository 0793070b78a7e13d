-- Shared by every script; the key functions (lease_key(id) ...) are put before it.
-- Times are Redis time in milliseconds: no machine's wall clock takes part.

local function now_ms()
  local t = redis.call('TIME')
  return t[1] * 1000 + math.floor(t[2] / 1000)
end

-- A worker is alive while its heartbeat has not lapsed and it is still the same process.
local function alive(worker, boot, now)
  local until_ms = redis.call('ZSCORE', workers_key(), worker)
  if not until_ms or tonumber(until_ms) <= now then return false end
  return redis.call('HGET', worker_key(worker), 'boot') == boot
end

local function free_slots(worker, slots)
  return tonumber(slots or 0) - redis.call('SCARD', leases_key(worker))
end

-- The live, accepting worker with the most warm sandboxes for the profile, then the most free slots.
-- Returns worker or nil, and whether any live worker serves the profile at all.
local function pick_worker(profile, now)
  local best, best_warm, best_free, served = nil, -1, 0, false
  for _, w in ipairs(redis.call('ZRANGEBYSCORE', workers_key(), '(' .. now, '+inf')) do
    local h = redis.call('HMGET', worker_key(w), 'accepting', 'slots', 'serves:' .. profile, 'warm:' .. profile)
    if h[3] then
      served = true
      local free = free_slots(w, h[2])
      if h[1] == '1' and free > 0 then
        local warm = math.min(tonumber(h[4] or 0), free)
        if warm > best_warm or (warm == best_warm and free > best_free) then
          best, best_warm, best_free = w, warm, free
        end
      end
    end
  end
  return best, served
end

-- Give the trajectory to the worker under a new epoch. `want` holds producer, profile, sweep, setup, and after a
-- loss its cause. The epoch never falls as long as the tombstone of the last lease is remembered.
local function assign(trajectory, worker, want, now, keep_ms)
  local boot = redis.call('HGET', worker_key(worker), 'boot')
  local key = lease_key(trajectory)
  local epoch = redis.call('HINCRBY', key, 'epoch', 1)
  redis.call('HSETNX', key, 'generation', 1)
  redis.call('HSET', key, 'state', 'assigned', 'worker', worker, 'boot', boot, 'producer', want.producer,
    'profile', want.profile, 'sweep', want.sweep, 'setup', want.setup, 'lost', want.lost, 'active', now)
  redis.call('PEXPIRE', key, keep_ms)
  redis.call('SADD', leases_key(worker), trajectory)
  redis.call('PEXPIRE', leases_key(worker), keep_ms)
  if tonumber(redis.call('HGET', worker_key(worker), 'warm:' .. want.profile) or 0) > 0 then
    redis.call('HINCRBY', worker_key(worker), 'warm:' .. want.profile, -1)
  end
  return boot, epoch
end

-- Put one entry on a producer's reply stream; a producer that is gone gets nothing. Returns whether it was put.
local function reply(producer, kind, id, body, keep_ms)
  if redis.call('EXISTS', producer_key(producer)) == 0 then return false end
  redis.call('XADD', replies_key(producer), 'MAXLEN', '~', 100000, '*', 'kind', kind, 'id', id, 'body', body)
  redis.call('PEXPIRE', replies_key(producer), keep_ms)
  return true
end

local function leave_room(trajectory)
  redis.call('ZREM', room_key(), trajectory)
  redis.call('DEL', waiter_key(trajectory))
end

-- Fill free slots of the worker from the waiting room, oldest first. Waiters whose time is up or whose producer is
-- gone are dropped on the way. A pass reads at most 200 waiters, so that a long room cannot hold Redis up.
local function seat_waiters(worker, now, keep_ms)
  local w = redis.call('HMGET', worker_key(worker), 'accepting', 'slots', 'boot')
  if w[1] ~= '1' then return 0 end
  local seated, free = 0, free_slots(worker, w[2])
  if free <= 0 then return 0 end
  for _, t in ipairs(redis.call('ZRANGE', room_key(), 0, 199)) do
    if free <= 0 then break end
    local h = redis.call('HMGET', waiter_key(t), 'producer', 'profile', 'sweep', 'setup', 'until', 'lost')
    if not h[1] or tonumber(h[5]) <= now or redis.call('EXISTS', producer_key(h[1])) == 0 then
      leave_room(t)
    elseif redis.call('HEXISTS', worker_key(worker), 'serves:' .. h[2]) == 1 then
      leave_room(t)
      local want = {producer = h[1], profile = h[2], sweep = h[3], setup = h[4], lost = h[6]}
      local boot, epoch = assign(t, worker, want, now, keep_ms)
      reply(h[1], 'placed', t, cjson.encode({worker = worker, boot = boot, epoch = epoch}), keep_ms)
      seated, free = seated + 1, free - 1
    end
  end
  return seated
end

-- Whether (worker boot, epoch) still is the holder of the trajectory's lease.
local function holds(trajectory, boot, epoch)
  local l = redis.call('HMGET', lease_key(trajectory), 'boot', 'epoch', 'state')
  return l[1] == boot and l[2] == epoch and l[3] ~= 'closed'
end

-- The holder of the lease is gone, and the workspace with it. Calls that had started end as lost, which tells the
-- loss; calls still queued are sent back to their producers to be routed anew. Returns the cause that the next reply
-- has to tell, empty when one has told it.
local function lose(trajectory, worker, cause, keep_ms)
  local told = false
  for _, id in ipairs(redis.call('ZRANGE', calls_key(trajectory), 0, -1)) do
    local c = redis.call('HMGET', call_key(id), 'state', 'producer', 'body')
    if c[1] == 'queued' then
      redis.call('HSET', call_key(id), 'boot', '')
      reply(c[2], 'moved', id, trajectory, keep_ms)
    elseif c[1] == 'started' then
      local call = cjson.decode(c[3])
      local result = cjson.encode({call_id = id, trajectory_id = trajectory, name = call.name, status = 'lost',
        fault = 'infrastructure', executed = 'unknown', worker_id = worker, attempts = 1,
        error = cause .. ' while the call ran; the workspace is gone'})
      redis.call('HSET', call_key(id), 'state', 'done', 'result', result)
      redis.call('HDEL', call_key(id), 'body')
      redis.call('ZREM', calls_key(trajectory), id)
      reply(c[2], 'result', id, result, keep_ms)
      told = true
    end
  end
  if told then cause = '' end
  redis.call('HSET', lease_key(trajectory), 'state', 'lost', 'boot', '', 'lost', cause)
  -- Counted here and not at the next assignment: a loss already told needs a new workspace as well.
  redis.call('HINCRBY', lease_key(trajectory), 'generation', 1)
  redis.call('SREM', leases_key(worker), trajectory)
  return cause
end
