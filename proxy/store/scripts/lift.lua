-- The ban is over.
-- KEYS 1 state; ARGV 1 clock
local now = clock(ARGV[1])
redis.call('HDEL', KEYS[1], 'ban', 'probe')
redis.call('HSET', KEYS[1], 'lifted', text(now))
return { text(now) }
