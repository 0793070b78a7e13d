-- The holder ends a lease: the sandbox is destroyed, its slot goes to whoever waited longest.
-- KEYS[1] root of the fleet
-- ARGV 1 trajectory  2 worker  3 boot  4 epoch  5 ms to keep state  6 ms to keep a result
-- Returns {1 when it was the worker's, waiters seated}.
local now, keep_ms = now_ms(), tonumber(ARGV[5])
local mine = holds(ARGV[1], ARGV[3], ARGV[4])
if mine then entomb(ARGV[1], ARGV[2], 'the trajectory was closed', keep_ms, tonumber(ARGV[6])) end
return {mine and 1 or 0, seat_waiters(ARGV[2], now, keep_ms)}
