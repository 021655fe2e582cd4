-- The ban should be over: one of those who ask may find out, and another one if nothing is heard of the first.
-- KEYS   1 state
-- ARGV   1 clock, 2 how long nobody else may
local now = clock(ARGV[1])
local kept = redis.call('HMGET', KEYS[1], 'ban', 'probe')
local ends = tonumber(kept[1] or 0)
if ends == 0 or ends > now or tonumber(kept[2] or 0) > now then return { text(now), 0 } end
redis.call('HSET', KEYS[1], 'probe', text(now + tonumber(ARGV[2])))
return { text(now), 1 }
