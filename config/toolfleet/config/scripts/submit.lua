-- Enter calls in the ledger, and send them to their worker: both or neither. Submitting the same call id again is
-- harmless, and so is a message that carries it again.
-- KEYS[1] root of the fleet
-- ARGV 1 producer  2 ms to keep an open call  3 ms to keep a reply
--      4 key of the worker's queue, empty to send nothing  5 and 6 the message before and after its items
--      7 ms to keep the queue
--      then nine an item: call id, trajectory, worker, boot, epoch, name, body; the item as a JSON object without its
--      last brace, 1 when the body belongs into it. Without a call id it is a notice.
-- Returns one verdict an item:
--   sent    a notice
--   queued  entered, or carried anew after a move
--   again   already on its way with the same holder, and now once more; its result now goes to this producer
--   done    ended before; its result was put on the reply stream once more
--   moved   the lease is not with that worker and epoch: route again
--   closed  the trajectory takes no more calls
--   taken   the call id belongs to a call of another trajectory
local producer, keep_ms, reply_ms = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local queue, head, tail, queue_ms = ARGV[4], ARGV[5], ARGV[6], tonumber(ARGV[7])
local now, verdicts, items = now_ms(), {}, {}

local function enter(i)
  local id, t, worker, boot, epoch = ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3], ARGV[i + 4]
  local name, body = ARGV[i + 5], ARGV[i + 6]
  local c = redis.call('HMGET', call_key(id), 'state', 'boot', 'epoch', 'result', 'trajectory')
  local l = redis.call('HMGET', lease_key(t), 'boot', 'epoch', 'state')
  if c[1] and c[5] ~= t then
    return 'taken'
  elseif c[1] == 'done' then
    reply(producer, 'result', id, c[4], reply_ms)
    return 'done'
  elseif l[1] == boot and l[2] == epoch and (c[1] == 'started' or (c[1] and c[2] == boot and c[3] == epoch)) then
    -- Also while the trajectory is closing: calls that entered before still run.
    redis.call('HSET', call_key(id), 'producer', producer)
    return 'again'
  elseif l[3] == 'closing' or l[3] == 'closed' then
    return 'closed'
  elseif l[1] ~= boot or l[2] ~= epoch then
    return 'moved'
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
    return 'queued'
  end
end

for i = 8, #ARGV, 9 do
  local verdict = ARGV[i] == '' and 'sent' or enter(i)
  verdicts[#verdicts + 1] = verdict
  if verdict == 'sent' or verdict == 'queued' or verdict == 'again' then
    items[#items + 1] = ARGV[i + 7] .. (ARGV[i + 8] == '1' and ', "call": ' .. ARGV[i + 6] or '') .. '}'
  end
end
if queue ~= '' and #items > 0 then
  local text = cjson.encode('[' .. table.concat(items, ', ') .. ']')
  redis.call('LPUSH', queue, head .. string.sub(text, 2, -2) .. tail)
  redis.call('PEXPIRE', queue, queue_ms)
end
return verdicts
