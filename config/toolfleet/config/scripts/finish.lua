-- Record results and hand them to their producers: once each, and only from the holder of the lease.
-- KEYS[1] root of the fleet
-- ARGV 1 boot  2 ms to keep a result  then five a call: call id, trajectory, epoch, result,
--      1 when the result tells of a lost workspace
-- Returns one verdict a call:
--   done   recorded, and put on the reply stream of a live producer
--   late   already ended (cancelled, or given up by its producer): dropped
--   stale  the lease is held elsewhere: dropped
local boot, keep_ms, now, out = ARGV[1], tonumber(ARGV[2]), now_ms(), {}
for i = 3, #ARGV, 5 do
  local id, t, epoch, result = ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3]
  local c = redis.call('HMGET', call_key(id), 'state', 'producer', 'snapshot', 'unwanted')
  if not c[1] then
    out[#out + 1] = 'late'
  elseif c[1] == 'done' then
    -- The same result once more: the connection broke before its worker had the answer.
    out[#out + 1] = redis.call('HGET', call_key(id), 'result') == result and 'done' or 'late'
  elseif not holds(t, boot, epoch) then
    out[#out + 1] = 'stale'
  else
    redis.call('HSET', call_key(id), 'state', 'done', 'result', result)
    redis.call('HDEL', call_key(id), 'body')
    redis.call('PEXPIRE', call_key(id), keep_ms)
    redis.call('ZREM', calls_key(t), id)
    redis.call('HSET', lease_key(t), 'active', now)
    if ARGV[i + 4] == '1' then redis.call('HSET', lease_key(t), 'lost', '') end
    local told = reply(c[2], 'result', id, result, keep_ms)
    -- Whoever has not heard that its workspace was saved has no use for that.
    if c[3] and (c[4] or not told or cjson.decode(result).status ~= 'ok') then disown(id, now) end
    out[#out + 1] = 'done'
  end
end
return out
