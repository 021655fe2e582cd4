-- A gateway is dead: what it had in flight is taken for completed now, and its place in the table is free.
-- KEYS   1 replicas, 2 about, 3 flying, then held windows
-- ARGV   1 clock, 2 id of the gateway, which is what the ids of its reservations begin with
local now = clock(ARGV[1])
local mine = ARGV[2] .. ':'
local moved = 0
for i = 4, #KEYS do
  for _, member in ipairs(redis.call('ZRANGEBYSCORE', KEYS[i], '(' .. text(now), '+inf')) do
    if string.sub(member, 1, #mine) == mine then
      redis.call('ZADD', KEYS[i], 'XX', text(now), member)
      moved = moved + 1
    end
  end
end
for _, id in ipairs(redis.call('ZRANGE', KEYS[3], 0, -1)) do
  if string.sub(id, 1, #mine) == mine then redis.call('ZREM', KEYS[3], id) end
end
redis.call('HDEL', KEYS[1], ARGV[2])
redis.call('HDEL', KEYS[2], ARGV[2])
return moved
