-- Which API keys belong to one account, as any gateway has heard it from the exchange. Keys and accounts are hashes.
-- KEYS   1 state, 2 accounts (key -> account)
-- ARGV   1 clock, then pairs to enter
-- Reply  {version, then all pairs}
for at = 2, #ARGV, 2 do
  if redis.call('HGET', KEYS[2], ARGV[at]) ~= ARGV[at + 1] then
    redis.call('HSET', KEYS[2], ARGV[at], ARGV[at + 1])
    redis.call('HINCRBY', KEYS[1], 'accounts', 1)
  end
end
local reply = redis.call('HGETALL', KEYS[2])
table.insert(reply, 1, redis.call('HGET', KEYS[1], 'accounts') or '0')
return reply
