-- Give up waiting for a slot, unless one was given in the meantime.
-- KEYS[1] root of the fleet
-- ARGV 1 trajectory
-- Returns {'left'}, or {'placed', worker, boot, epoch} when a slot came first.
local l = redis.call('HMGET', lease_key(ARGV[1]), 'state', 'worker', 'boot', 'epoch')
leave_room(ARGV[1])
if l[1] == 'assigned' or l[1] == 'active' then return {'placed', l[2], l[3], l[4]} end
return {'left'}
