-- The worker takes up a lease that was assigned or handed to it.
-- KEYS[1] root of the fleet
-- ARGV 1 trajectory  2 boot  3 epoch
-- Returns {} when the lease is not the worker's, else {profile, setup, generation, lost, producer, sweep, used, age in
-- ms, sandbox, origin, started ...}: `lost` names the cause of a loss that no reply has told yet, and the result that tells it
-- clears it (finish); `sandbox` is where its workspace is, empty when there is none; `origin` is the snapshot from which
-- it has yet to start; then the ids of the calls that an earlier holder started, oldest first.
if not holds(ARGV[1], ARGV[2], ARGV[3]) then return {} end
local key = lease_key(ARGV[1])
local l = redis.call('HMGET', key, 'profile', 'setup', 'generation', 'lost', 'producer', 'sweep', 'used', 'since',
  'sandbox', 'origin')
if redis.call('HGET', key, 'state') == 'assigned' then redis.call('HSET', key, 'state', 'active') end
local found = {l[1], l[2] or '', l[3], l[4] or '', l[5], l[6] or '', l[7] or '0',
  tostring(now_ms() - tonumber(l[8] or now_ms())), l[9] or '', l[10] or ''}
for _, call in ipairs(open_calls(ARGV[1])) do
  if call.state == 'started' then found[#found + 1] = call.id end
end
return found
