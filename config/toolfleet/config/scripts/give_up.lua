-- The producer ends a call itself: it was cancelled, or its deadline passed.
-- KEYS[1] root of the fleet
-- ARGV 1 call id  2 trajectory  3 result if it had not started  4 result if it had (empty: leave it running)
--      5 ms to keep a result
-- Returns {verdict, worker, result}; verdicts:
--   ended    recorded as the first result says: the call will never start
--   started  it runs on `worker`; recorded as the second result says, unless that is empty
--   done     it had ended before; `result` is what it ended with
--   missing  the ledger does not know it
local c = redis.call('HMGET', call_key(ARGV[1]), 'state', 'worker', 'result')
if not c[1] then return {'missing', '', ''} end
if c[1] == 'done' then
  -- The same question once more, because the connection broke before its producer had the answer.
  if c[3] == ARGV[3] then return {'ended', c[2], c[3]} end
  if c[3] == ARGV[4] then return {'started', c[2], ''} end
  return {'done', c[2], c[3]}
end
local result = ARGV[3]
if c[1] == 'started' then result = ARGV[4] end
if c[1] == 'started' and result == '' then redis.call('HSET', call_key(ARGV[1]), 'unwanted', '1') end
if result ~= '' then
  redis.call('HSET', call_key(ARGV[1]), 'state', 'done', 'result', result)
  redis.call('HDEL', call_key(ARGV[1]), 'body')
  redis.call('PEXPIRE', call_key(ARGV[1]), tonumber(ARGV[5]))
  redis.call('ZREM', calls_key(ARGV[2]), ARGV[1])
  disown(ARGV[1], now_ms())
end
if c[1] == 'started' then return {'started', c[2], ''} end
return {'ended', c[2], result}
