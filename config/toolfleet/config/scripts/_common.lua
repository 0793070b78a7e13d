-- Shared by every script; the key functions (lease_key(id) ...) are put before it.
-- Times are Redis time in milliseconds: no machine's wall clock takes part.

local function now_ms()
  local t = redis.call('TIME')
  return t[1] * 1000 + math.floor(t[2] / 1000)
end

-- Leases that one pass ends at most, so that a large worker's end does not hold Redis up.
local PASS = 50

-- A worker is alive while its heartbeat has not lapsed and it is still the same process. The grace is for those who
-- would declare it dead: after an outage of Redis every heartbeat looks lapsed until the first round has passed.
local function alive(worker, boot, now, grace_ms)
  local until_ms = redis.call('ZSCORE', workers_key(), worker)
  if not until_ms or tonumber(until_ms) + grace_ms <= now then return false end
  return redis.call('HGET', worker_key(worker), 'boot') == boot
end

-- Where those wait who want a slot for a profile, at a place if need be.
local function room_of(profile, place)
  if not place or place == '' then return room_key(profile) end
  return room_key(profile .. '@' .. place)
end

local function free_slots(worker, slots)
  return tonumber(slots or 0) - redis.call('SCARD', leases_key(worker))
end

-- The live, accepting worker with the most warm sandboxes for the profile, then the most free slots; of those that
-- reach the place, if one is named.
-- Returns worker or nil, and whether any live worker serves the profile (there) at all.
local function pick_worker(profile, place, now)
  local best, best_warm, best_free, served = nil, -1, 0, false
  for _, w in ipairs(redis.call('ZRANGEBYSCORE', workers_key(), '(' .. now, '+inf')) do
    local h = redis.call('HMGET', worker_key(w), 'accepting', 'slots', 'serves:' .. profile, 'warm:' .. profile,
      'reaches:' .. place)
    if h[3] and (place == '' or h[5]) then
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

-- A live, accepting worker that serves the profile and reaches the place where a sandbox is: the one with the most
-- free slots, even when it has none. A workspace that lives is worth more than the bound on a worker's slots.
local function pick_heir(place, profile, now)
  if not place or place == '' then return nil end
  local best, best_free = nil, 0
  for _, w in ipairs(redis.call('ZRANGEBYSCORE', workers_key(), '(' .. now, '+inf')) do
    local h = redis.call('HMGET', worker_key(w), 'accepting', 'slots', 'serves:' .. profile, 'reaches:' .. place)
    if h[1] == '1' and h[3] and h[4] then
      local free = free_slots(w, h[2])
      if not best or free > best_free then best, best_free = w, free end
    end
  end
  return best
end

-- A trajectory that was to start from a snapshot needs it no more; after the last one nobody does.
local function let_go(snapshot, trajectory, now)
  if not snapshot or snapshot == '' then return end
  redis.call('SREM', forks_key(snapshot), trajectory)
  if redis.call('SCARD', forks_key(snapshot)) == 0 then redis.call('ZADD', snapshots_key(), 'XX', now, snapshot) end
end

-- Nobody will start from what a call has saved, or is about to save.
local function disown(call, now)
  local snapshot = redis.call('HGET', call_key(call), 'snapshot')
  if not snapshot then return end
  redis.call('DEL', forks_key(snapshot))
  redis.call('ZADD', snapshots_key(), 'XX', now, snapshot)
end

-- Give the trajectory to the worker under a new epoch. `want` holds producer, profile, sweep, setup, origin. The epoch
-- never falls as long as the last lease is remembered, and a loss that no reply has told stays noted in the lease.
local function assign(trajectory, worker, want, now, keep_ms)
  local boot = redis.call('HGET', worker_key(worker), 'boot')
  local key = lease_key(trajectory)
  local epoch = redis.call('HINCRBY', key, 'epoch', 1)
  redis.call('HSETNX', key, 'generation', 1)
  redis.call('HSETNX', key, 'lost', '')
  redis.call('HSET', key, 'state', 'assigned', 'worker', worker, 'boot', boot, 'producer', want.producer,
    'profile', want.profile, 'sweep', want.sweep, 'setup', want.setup, 'used', '0', 'active', now,
    'sandbox', '', 'sandbox_id', '', 'place', '', 'since', now)
  -- Only the first workspace is a copy: one that comes after a loss is empty.
  if epoch == 1 and want.origin ~= '' then redis.call('HSET', key, 'origin', want.origin) end
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
  local w = redis.call('HMGET', waiter_key(trajectory), 'profile', 'place')
  local key = w[1] and room_of(w[1], w[2])
  if key then redis.call('ZREM', key, trajectory) end
  redis.call('DEL', waiter_key(trajectory))
end

-- The rooms of those whom the worker can serve.
local function rooms_of(worker)
  local profiles, places, rooms = {}, {''}, {}
  for _, field in ipairs(redis.call('HKEYS', worker_key(worker))) do
    if string.sub(field, 1, 7) == 'serves:' then profiles[#profiles + 1] = string.sub(field, 8) end
    if string.sub(field, 1, 8) == 'reaches:' then places[#places + 1] = string.sub(field, 9) end
  end
  for _, profile in ipairs(profiles) do
    for _, place in ipairs(places) do rooms[#rooms + 1] = room_of(profile, place) end
  end
  return rooms
end

-- Of all who wait in these rooms, the one who came first, and that room; nil when none does.
local function first_waiter(rooms)
  local first, since, room
  for _, key in ipairs(rooms) do
    local head = redis.call('ZRANGE', key, 0, 0, 'WITHSCORES')
    if head[1] and (not since or tonumber(head[2]) < since) then
      first, since, room = head[1], tonumber(head[2]), key
    end
  end
  return first, room
end

-- Fill free slots of the worker from the waiting rooms, oldest first. Waiters whose time is up or whose producer is
-- gone are dropped on the way. A pass looks at no more than 200 waiters, so that it cannot hold Redis up.
local function seat_waiters(worker, now, keep_ms)
  local w = redis.call('HMGET', worker_key(worker), 'accepting', 'slots', 'boot')
  if w[1] ~= '1' then return 0 end
  local seated, free, rooms = 0, free_slots(worker, w[2]), rooms_of(worker)
  for _ = 1, 200 do
    if free <= 0 then break end
    local t, key = first_waiter(rooms)
    if not t then break end
    local h = redis.call('HMGET', waiter_key(t), 'producer', 'sweep', 'setup', 'until', 'profile', 'origin')
    leave_room(t)
    redis.call('ZREM', key, t)
    if h[1] and tonumber(h[4]) > now and redis.call('EXISTS', producer_key(h[1])) == 1 then
      local want = {producer = h[1], profile = h[5], sweep = h[2], setup = h[3], origin = h[6] or ''}
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

-- End an open call of a workspace that is gone, and tell its producer. Returns whether a living one was told of the
-- loss: a call that ran outside the sandbox only learns that nobody knows what became of it.
local function end_as_lost(id, call, trajectory, worker, cause, keep_ms, result_ms)
  local started = call.state == 'started'
  local outside = started and call.outside
  local result = cjson.encode({call_id = id, trajectory_id = trajectory, name = call.name,
    status = outside and 'unknown' or 'lost',
    fault = 'infrastructure', executed = started and 'unknown' or 'no', worker_id = worker,
    attempts = started and 1 or 0,
    error = cause .. (started and ' while the call ran' or ' before the call started')
      .. (outside and ' outside the sandbox; what became of it is not known' or '; the workspace is gone')})
  redis.call('HSET', call_key(id), 'state', 'done', 'result', result)
  redis.call('HDEL', call_key(id), 'body')
  redis.call('PEXPIRE', call_key(id), result_ms)
  redis.call('ZREM', calls_key(trajectory), id)
  disown(id, now_ms())
  return reply(call.producer, 'result', id, result, keep_ms) and not outside
end

-- The open calls of a trajectory, oldest first.
local function open_calls(trajectory)
  local found = {}
  for _, id in ipairs(redis.call('ZRANGE', calls_key(trajectory), 0, -1)) do
    local c = redis.call('HMGET', call_key(id), 'state', 'producer', 'name', 'outside')
    if c[1] == 'queued' or c[1] == 'started' then
      found[#found + 1] = {id = id, state = c[1], producer = c[2], name = c[3], outside = c[4]}
    else
      redis.call('ZREM', calls_key(trajectory), id)
    end
  end
  return found
end

-- End a lease for good. A closed trajectory takes no call again, so those still open end here. The tombstone turns
-- late calls away and keeps the epoch rising.
local function entomb(trajectory, worker, cause, keep_ms, result_ms)
  for _, call in ipairs(open_calls(trajectory)) do
    end_as_lost(call.id, call, trajectory, worker, cause, keep_ms, result_ms)
  end
  let_go(redis.call('HGET', lease_key(trajectory), 'origin'), trajectory, now_ms())
  redis.call('HSET', lease_key(trajectory), 'state', 'closed')
  redis.call('HDEL', lease_key(trajectory), 'setup', 'boot', 'lost', 'used', 'sandbox', 'sandbox_id', 'place', 'origin')
  redis.call('PEXPIRE', lease_key(trajectory), keep_ms)
  redis.call('SREM', leases_key(worker), trajectory)
end

-- The lease has another holder than `from` now. Calls that started stay so: the runner has them, and the holder asks
-- it by their ids. Calls still queued go back to their producers, to be carried to the holder. A trajectory that is
-- closing lets no producer in again: there they end.
local function follow(trajectory, from, keep_ms, result_ms)
  local l = redis.call('HMGET', lease_key(trajectory), 'worker', 'boot', 'epoch', 'state')
  for _, call in ipairs(open_calls(trajectory)) do
    if call.state == 'started' then
      redis.call('HSET', call_key(call.id), 'worker', l[1], 'boot', l[2], 'epoch', l[3])
    elseif l[4] == 'closing' then
      end_as_lost(call.id, call, trajectory, from, 'the trajectory was closed', keep_ms, result_ms)
    else
      redis.call('HSET', call_key(call.id), 'boot', '')
      reply(call.producer, 'moved', call.id, trajectory, keep_ms)
    end
  end
end

-- Hand a lease with its sandbox to another worker under a new epoch.
local function hand_over(trajectory, from, heir, keep_ms, result_ms)
  local key, boot = lease_key(trajectory), redis.call('HGET', worker_key(heir), 'boot')
  redis.call('HINCRBY', key, 'epoch', 1)
  if redis.call('HGET', key, 'state') == 'active' then redis.call('HSET', key, 'state', 'assigned') end
  redis.call('HSET', key, 'worker', heir, 'boot', boot)
  redis.call('SREM', leases_key(from), trajectory)
  redis.call('SADD', leases_key(heir), trajectory)
  redis.call('PEXPIRE', leases_key(heir), keep_ms)
  redis.call('HINCRBY', worker_key(heir), 'inherited', 1)
  follow(trajectory, from, keep_ms, result_ms)
end

-- The holder of the lease is gone. Where another worker can reach its sandbox, that one goes on with it. Otherwise the
-- workspace is gone: calls that had started end as lost, which tells the loss; calls still queued are sent back to
-- their producers to be routed anew. The lease keeps the cause that the next reply has to tell: none when one has told
-- it, or when nothing had started in the workspace and so nothing is lost. Returns whether it was handed over.
local function lose(trajectory, worker, cause, now, keep_ms, result_ms)
  local l = redis.call('HMGET', lease_key(trajectory), 'state', 'used', 'lost', 'place', 'profile')
  local heir = pick_heir(l[4], l[5], now)
  if heir then
    hand_over(trajectory, worker, heir, keep_ms, result_ms)
    return true
  end
  if l[1] == 'closing' then
    entomb(trajectory, worker, cause, keep_ms, result_ms)
    return false
  end
  local told = false
  for _, call in ipairs(open_calls(trajectory)) do
    if call.state == 'started' then
      told = end_as_lost(call.id, call, trajectory, worker, cause, keep_ms, result_ms) or told
    else
      redis.call('HSET', call_key(call.id), 'boot', '')
      reply(call.producer, 'moved', call.id, trajectory, keep_ms)
    end
  end
  if l[2] == '1' then
    -- Counted here and not at the next assignment: a loss already told needs a new workspace as well.
    redis.call('HINCRBY', lease_key(trajectory), 'generation', 1)
  else
    cause = l[3] or ''
  end
  -- Also a loss that the holder had noted (renounce), while the call in which it showed had not ended yet.
  if told then cause = '' end
  redis.call('HSET', lease_key(trajectory), 'state', 'lost', 'boot', '', 'lost', cause,
    'sandbox', '', 'sandbox_id', '', 'place', '')
  redis.call('SREM', leases_key(worker), trajectory)
  return false
end
