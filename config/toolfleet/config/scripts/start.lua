-- The one gate before a command runs: a call passes it at most once, and only for the holder of its lease.
-- KEYS[1] root of the fleet
-- ARGV 1 boot  then five a call: call id, trajectory, epoch, token of this attempt, 1 when it runs outside the sandbox
-- Returns two values a call, verdict and ms since its submission; verdicts:
--   go         marked as started: run it
--   duplicate  started or done before: do nothing
--   stale      the lease is held elsewhere: do nothing
--   missing    the ledger does not know it: do nothing
local boot, now, out = ARGV[1], now_ms(), {}
for i = 2, #ARGV, 5 do
  local id, t, epoch, token = ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3]
  local c = redis.call('HMGET', call_key(id), 'state', 'queued_at', 'token')
  local verdict
  if not c[1] then
    verdict = 'missing'
  elseif c[1] == 'started' and c[3] == token and holds(t, boot, epoch) then
    -- The same attempt asks again, because the connection broke before it had the answer. Not once the lease was
    -- handed over: the call is the next holder's by then.
    verdict = 'go'
  elseif c[1] ~= 'queued' then
    verdict = 'duplicate'
  elseif not holds(t, boot, epoch) then
    verdict = 'stale'
  else
    verdict = 'go'
    redis.call('HSET', call_key(id), 'state', 'started', 'boot', boot, 'epoch', epoch, 'token', token)
    -- What runs outside leaves nothing in the workspace that could be lost with it.
    if ARGV[i + 4] == '1' then
      redis.call('HSET', call_key(id), 'outside', '1')
      redis.call('HSET', lease_key(t), 'active', now)
    else
      redis.call('HSET', lease_key(t), 'active', now, 'used', '1')
    end
  end
  out[#out + 1] = verdict
  out[#out + 1] = tostring(now - tonumber(c[2] or now))
end
return out
