-- Enter calls in the ledger before their message leaves. Submitting the same call id again is harmless.
-- KEYS[1] root of the fleet
-- ARGV 1 producer  2 ms to keep an open call  3 ms to keep a reply
--      then seven a call: call id, trajectory, worker, boot, epoch, name, body
-- Returns one verdict a call:
--   queued  entered, or carried anew after a move: publish it
--   again   already on its way with the same holder: publishing it once more is harmless; its result now goes to
--           this producer
--   done    ended before; its result was put on the reply stream once more
--   moved   the lease is not with that worker and epoch: route again
--   closed  the trajectory takes no more calls
--   taken   the call id belongs to a call of another trajectory
local producer, keep_ms, reply_ms = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local now, verdicts = now_ms(), {}
for i = 4, #ARGV, 7 do
  local id, t, worker, boot, epoch = ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3], ARGV[i + 4]
  local name, body = ARGV[i + 5], ARGV[i + 6]
  local c = redis.call('HMGET', call_key(id), 'state', 'boot', 'epoch', 'result', 'trajectory')
  local l = redis.call('HMGET', lease_key(t), 'boot', 'epoch', 'state')
  local verdict
  if c[1] and c[5] ~= t then
    verdict = 'taken'
  elseif c[1] == 'done' then
    reply(producer, 'result', id, c[4], reply_ms)
    verdict = 'done'
  elseif l[1] == boot and l[2] == epoch and (c[1] == 'started' or (c[1] and c[2] == boot and c[3] == epoch)) then
    -- Also while the trajectory is closing: calls that entered before still run.
    redis.call('HSET', call_key(id), 'producer', producer)
    verdict = 'again'
  elseif l[3] == 'closing' or l[3] == 'closed' then
    verdict = 'closed'
  elseif l[1] ~= boot or l[2] ~= epoch then
    verdict = 'moved'
  else
    redis.call('HSET', call_key(id), 'state', 'queued', 'trajectory', t, 'producer', producer, 'worker', worker,
      'boot', boot, 'epoch', epoch, 'name', name, 'body', body)
    redis.call('HSETNX', call_key(id), 'queued_at', now)
    redis.call('PEXPIRE', call_key(id), keep_ms)
    if redis.call('ZSCORE', calls_key(t), id) == false then
      -- Counted, not timed: many calls enter within a millisecond, and their order matters.
      redis.call('ZADD', calls_key(t), redis.call('HINCRBY', lease_key(t), 'entered', 1), id)
    end
    redis.call('PEXPIRE', calls_key(t), keep_ms)
    verdict = 'queued'
  end
  verdicts[#verdicts + 1] = verdict
end
return verdicts
