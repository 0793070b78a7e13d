-- Which snapshots nobody wants any more, of those that a worker can remove.
-- KEYS[1] root of the fleet
-- ARGV 1 ms until somebody looks again  2 ms to keep state  3 whether to look also at those that are not due, for
--      the worker leaves  then the places that the worker reaches
-- Returns three values a snapshot: name, backend, id (empty when it may not have come to one). Each stays on the list
-- until it is reported as dropped, so that one whose worker dies over it is another worker's.
local again, keep_ms, now, mine, found = tonumber(ARGV[1]), tonumber(ARGV[2]), now_ms(), {}, {}
for i = 4, #ARGV do mine[ARGV[i]] = true end
local latest = ARGV[3] == '1' and '+inf' or now
for _, name in ipairs(redis.call('ZRANGEBYSCORE', snapshots_key(), '-inf', latest, 'LIMIT', 0, 1000)) do
  local s = redis.call('HMGET', snapshot_key(name), 'backend', 'place', 'producer', 'id')
  if not s[1] then
    redis.call('ZREM', snapshots_key(), name)
  elseif redis.call('SCARD', forks_key(name)) > 0 and redis.call('EXISTS', producer_key(s[3])) == 1 then
    -- Some forks have yet to begin, and who made them lives.
    redis.call('ZADD', snapshots_key(), now + again, name)
    for _, key in ipairs({snapshot_key(name), forks_key(name), snapshots_key()}) do redis.call('PEXPIRE', key, keep_ms) end
  elseif s[4] == '' and tonumber(redis.call('ZSCORE', snapshots_key(), name)) > now then
    -- It is being saved.
  elseif mine[s[2]] then
    redis.call('ZADD', snapshots_key(), now + again, name)
    for _, value in ipairs({name, s[1], s[4]}) do found[#found + 1] = value end
  end
end
return found
