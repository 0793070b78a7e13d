-- Enter calls in the ledger before their message leaves. Submitting the same call id again is harmless.
-- KEYS[1] root of the fleet
-- ARGV 1 producer  2 ms to keep an open call  3 ms to keep a reply
--      then six a call: call id, trajectory, worker, boot, epoch, body
-- Returns one verdict a call:
--   queued  entered, or carried anew after a move: publish it
--   again   already on its way with the same holder: publishing it once more is harmless
--   done    ended before; its result was put on the reply stream once more
--   moved   the lease is not with that worker and epoch: route again
--   closed  the trajectory takes no more calls
local producer, keep_ms, reply_ms = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local now, verdicts = now_ms(), {}
for i = 4, #ARGV, 6 do
  local id, t, worker, boot, epoch, body = ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3], ARGV[i + 4], ARGV[i + 5]
  local c = redis.call('HMGET', call_key(id), 'state', 'boot', 'epoch', 'result')
  local l = redis.call('HMGET', lease_key(t), 'boot', 'epoch', 'state')
  local verdict
  if c[1] == 'done' then
    reply(producer, 'result', id, c[4], reply_ms)
    verdict = 'done'
  elseif l[3] == 'closing' or l[3] == 'closed' then
    verdict = 'closed'
  elseif l[1] ~= boot or l[2] ~= epoch then
    verdict = 'moved'
  elseif c[1] == 'started' or (c[1] == 'queued' and c[2] == boot and c[3] == epoch) then
    verdict = 'again'
  else
    redis.call('HSET', call_key(id), 'state', 'queued', 'trajectory', t, 'producer', producer, 'worker', worker,
      'boot', boot, 'epoch', epoch, 'body', body)
    redis.call('HSETNX', call_key(id), 'queued_at', now)
    redis.call('PEXPIRE', call_key(id), keep_ms)
    if redis.call('ZSCORE', calls_key(t), id) == false then
      -- One script may enter several calls within a millisecond; the index keeps their order.
      redis.call('ZADD', calls_key(t), now + i / 10000000, id)
    end
    redis.call('PEXPIRE', calls_key(t), keep_ms)
    verdict = 'queued'
  end
  verdicts[#verdicts + 1] = verdict
end
return verdicts
