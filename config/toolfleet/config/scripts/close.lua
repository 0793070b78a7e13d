-- The producer closes a trajectory: no call enters any more; those that entered still run, unless
-- their holder is gone already.
-- KEYS[1] root of the fleet
-- ARGV 1 trajectory  2 ms to keep state  3 ms to keep a result  4 snapshot that it was to start from, or empty
-- Returns {worker, boot, epoch} of the holder that must be told, or {} when nobody holds it.
leave_room(ARGV[1])
local l = redis.call('HMGET', lease_key(ARGV[1]), 'state', 'worker', 'boot', 'epoch')
if l[1] == 'closed' then return {} end
if not l[1] then
  let_go(ARGV[4], ARGV[1], now_ms())
  redis.call('HSET', lease_key(ARGV[1]), 'state', 'closed')
  redis.call('PEXPIRE', lease_key(ARGV[1]), tonumber(ARGV[2]))
  return {}
end
if l[1] == 'lost' then
  entomb(ARGV[1], l[2], 'the trajectory was closed', tonumber(ARGV[2]), tonumber(ARGV[3]))
  return {}
end
redis.call('HSET', lease_key(ARGV[1]), 'state', 'closing')
return {l[2], l[3], l[4]}
