-- A gateway that is cut off from the store has been reached by another one: its share stays its own.
-- KEYS 1 replicas; ARGV 1 clock, 2 id of the gateway
local now = clock(ARGV[1])
local at, share = string.match(redis.call('HGET', KEYS[1], ARGV[2]) or '', '^(%d+) (%d+)')
if at and tonumber(at) < now then redis.call('HSET', KEYS[1], ARGV[2], text(now) .. ' ' .. share .. ' own') end
return 1
