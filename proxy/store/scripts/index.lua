-- Which windows are in use, for people and metrics: noted now and then, not with every request.
-- KEYS   1 index (name -> when it was last noted)
-- ARGV   1 clock, 2 forgotten after, 3 how many at most, then names to note
-- Reply  the names, the latest first
local now = clock(ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', text(now - tonumber(ARGV[2])))
for at = 4, #ARGV do redis.call('ZADD', KEYS[1], text(now), ARGV[at]) end
local most = tonumber(ARGV[3])
if most == 0 then return {} end
return redis.call('ZREVRANGE', KEYS[1], 0, most - 1)
