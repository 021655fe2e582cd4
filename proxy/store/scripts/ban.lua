-- Nothing is sent upstream for a while, by no gateway of this egress. A ban that lasts longer already stays.
-- KEYS 1 state; ARGV 1 clock, 2 how long
local now = clock(ARGV[1])
local ends = math.max(tonumber(redis.call('HGET', KEYS[1], 'ban') or 0), now + tonumber(ARGV[2]))
redis.call('HSET', KEYS[1], 'ban', text(ends))
return text(ends)
