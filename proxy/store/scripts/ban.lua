-- The exchange has banned the address: nothing is sent, by no gateway of this egress, until somebody has lifted it.
-- As policies/ban.py: another 403 prolongs, another ban soon after lasts longer.
-- KEYS   1 state
-- ARGV   1 clock, 2 how long, 3 remember (1): only enter what somebody remembers, until 4, begun 5, times 6
-- Reply  {now, until, begun, times, lifted}
local AGAIN, MOST_DOUBLED = 86400000000, 3
local now = clock(ARGV[1])
local kept = redis.call('HMGET', KEYS[1], 'ban', 'begun', 'bans', 'lifted')
local ends, begun = tonumber(kept[1] or 0), tonumber(kept[2] or 0)
local times, lifted = tonumber(kept[3] or 0), tonumber(kept[4] or 0)
local function long(count) return tonumber(ARGV[2]) * 2 ^ math.min(math.max(count - 1, 0), MOST_DOUBLED) end

if ARGV[3] == '1' then
  if ends == 0 and tonumber(ARGV[5]) >= lifted then
    ends, begun, times = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
  elseif ends > 0 then
    ends = math.max(ends, tonumber(ARGV[4]))
  end
elseif ends > now then
  ends = math.max(ends, now + long(times))
else
  times = (times > 0 and now - math.max(lifted, begun) < AGAIN) and times + 1 or 1
  ends, begun = now + long(times), now
end
if ends > 0 then
  redis.call('HSET', KEYS[1], 'ban', text(ends), 'begun', text(begun), 'bans', text(times))
  redis.call('HDEL', KEYS[1], 'probe')
end
return { text(now), text(ends), text(begun), text(times), text(lifted) }
