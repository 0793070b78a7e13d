-- A start has ended: the breaker counts failures in a row, and opens for a time that doubles with each further one.
-- KEYS[1] root of the fleet
-- ARGV 1 hash of the spec  2 attempt  3 whether it succeeded (`1`)  4 failures that open the breaker, or zero for never
--      5 ms of the first pause  6 ms of the longest  7 ms to keep state
-- Returns the ms for which nobody tries now, 0 when the breaker is closed.
local spec, key, now = ARGV[1], budget_key(ARGV[1]), now_ms()
-- Counted once: the same attempt may report again after a lost reply, or so late that it counts no more.
if redis.call('ZREM', starting_key(spec), ARGV[2]) == 0 then return 0 end
if ARGV[3] == '1' then
  redis.call('HDEL', key, 'failures', 'open_until')
  return 0
end
local failures, threshold = redis.call('HINCRBY', key, 'failures', 1), tonumber(ARGV[4])
redis.call('PEXPIRE', key, ARGV[7])
if threshold == 0 or failures < threshold then return 0 end
local pause = math.min(tonumber(ARGV[6]), tonumber(ARGV[5]) * 2 ^ math.min(failures - threshold, 30))
redis.call('HSET', key, 'open_until', string.format('%.0f', now + pause))
return math.floor(pause)
