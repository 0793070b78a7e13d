-- A worker asks whether it may destroy a sandbox of a lease, and gives it up if it holds it.
-- KEYS[1] root of the fleet
-- ARGV 1 trajectory  2 boot  3 epoch  4 id of the sandbox  5 cause, in words, when its workspace is lost by that
--      6 whether it may serve one trajectory after another: what this one's lease does not name may be another's
-- Returns {verdict, generation}; verdicts:
--   destroy  it was the worker's, or is nobody's: no worker will ever be led to it again
--   leave    it is another holder's, or Redis does not remember whose
-- When something had started in the workspace, its loss is noted to be told by the next reply, and the generation
-- rises. Asking twice changes nothing more.
local key = lease_key(ARGV[1])
local l = redis.call('HMGET', key, 'sandbox_id', 'state', 'used', 'generation')
if not l[2] then return {'leave', '0'} end
if l[1] ~= ARGV[4] then return {ARGV[6] == '1' and 'leave' or 'destroy', l[4] or '1'} end
if not holds(ARGV[1], ARGV[2], ARGV[3]) then return {'leave', l[4]} end
redis.call('HSET', key, 'sandbox', '', 'sandbox_id', '', 'place', '')
if l[3] == '1' then
  redis.call('HSET', key, 'used', '0', 'lost', ARGV[5])
  redis.call('HINCRBY', key, 'generation', 1)
end
return {'destroy', redis.call('HGET', key, 'generation')}
