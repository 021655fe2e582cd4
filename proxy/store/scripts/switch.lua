-- The trade switch: the latest word counts, whenever it comes in.
-- KEYS   1 state
-- ARGV   1 clock, 2 when it was set, 3 mode, 4 somebody has just set it (1): then it is the latest word, whatever clock
--        the last one was set by; or it is only told again (0)
-- Reply  {now, set, mode}
local now = clock(ARGV[1])
local kept = redis.call('HMGET', KEYS[1], 'switched', 'trading')
local set = tonumber(ARGV[2])
if ARGV[4] == '1' then set = math.max(set, tonumber(kept[1] or 0) + 1) end
if set >= tonumber(kept[1] or 0) then
  redis.call('HSET', KEYS[1], 'switched', text(set), 'trading', ARGV[3])
  return { text(now), text(set), ARGV[3] }
end
return { text(now), kept[1], kept[2] }
