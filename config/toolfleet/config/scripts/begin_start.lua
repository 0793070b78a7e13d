-- A worker asks whether it may start a sandbox of a spec now. Budget and breaker are the whole fleet's.
-- KEYS[1] root of the fleet
-- ARGV 1 hash of the spec  2 attempt  3 sandboxes that may be starting at once, or zero for any number
--      4 starts a second, or zero for any number  5 ms after which an attempt that nobody ended counts no more
--      6 ms to keep state
-- Returns {verdict, ms}; verdicts:
--   go    counted as starting until end_start
--   wait  the budget is spent: ask again in so many ms
--   open  starts failed in a row: nobody tries for so many ms
local spec, attempt, most, rate, now = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4]), now_ms()
local b = redis.call('HMGET', budget_key(spec), 'open_until', 'tokens', 'at')
if tonumber(b[1] or 0) > now then return {'open', tonumber(b[1]) - now} end
redis.call('ZREMRANGEBYSCORE', starting_key(spec), '-inf', now)
-- The same attempt asks again, because the connection broke before it had the answer.
if redis.call('ZSCORE', starting_key(spec), attempt) then return {'go', 0} end
if most > 0 and redis.call('ZCARD', starting_key(spec)) >= most then return {'wait', 200} end
if rate > 0 then
  -- A bucket that holds a second's worth of starts, and one at least.
  local full = math.max(1, rate)
  local tokens = math.min(full, tonumber(b[2] or full) + (now - tonumber(b[3] or now)) * rate / 1000)
  if tokens < 1 then return {'wait', math.ceil((1 - tokens) * 1000 / rate)} end
  redis.call('HSET', budget_key(spec), 'tokens', tostring(tokens - 1), 'at', now)
  redis.call('PEXPIRE', budget_key(spec), ARGV[6])
end
redis.call('ZADD', starting_key(spec), now + tonumber(ARGV[5]), attempt)
redis.call('PEXPIRE', starting_key(spec), ARGV[6])
return {'go', 0}
