-- What one answer tells of a limit (policies/pacing.py, learn()). Its request ends here as far as this window goes: what
-- was refused was not counted by the exchange, the rest is completed.
-- KEYS   1 the window, 2 what is known of its limit
-- ARGV   1 clock, 2 the window, as windows() reads, 3 id, 4 refused, 5 accepted answers it stands for, 6 sent, 7 limit,
--        8 remaining, 9 stamp, 10 reset, 11 chance; 7 to 10: -1 where the answer did not say
-- Reply  {now, limit before, limit now}
local SELDOM, YIELD, SUSPICIOUS, SAME_CLOCK, MOST_WINDOWS, MOST_STRIKES = 150, 10000000, 60000000, 60000, 8, 8
local now = clock(ARGV[1])
local w = windows(KEYS, 1, ARGV[2], 0)[1]
local id, refused, accepted = ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5])
local sent, told, remaining = tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8])
local stamp, reset, chance = tonumber(ARGV[9]), tonumber(ARGV[10]), tonumber(ARGV[11])
w.ceiling, w.floor = w.burst, w.fifth

for part = 1, w.cost do
  local member = id .. ':' .. part
  if part > w.cost - refused then redis.call('ZREM', w.key, member)
  else redis.call('ZADD', w.key, 'XX', 'LT', instant(now), member) end
end

local kept = redis.call('HMGET', w.state, 'l', 't', 'f', 'b', 's', 'c', 'a', 'k', 'r', 'w')
local limit, newest = tonumber(kept[1] or w.start), tonumber(kept[2] or 0)
local blocked, suspicious = tonumber(kept[4] or 0), tonumber(kept[5] or 0)
local caution, since = tonumber(kept[6] or 0), tonumber(kept[7] or 0)
local strikes, struck, lowered = tonumber(kept[8] or 0), tonumber(kept[9] or 0), tonumber(kept[10] or 0)
if now >= suspicious then caution = 0 end

local before = bounded(w, limit)
local function block(us) blocked = math.max(blocked, now + math.min(math.max(us, 0), MOST_WINDOWS * w.us)) end

local late = kept[1] and (stamp < 0 or (newest - SAME_CLOCK <= stamp and stamp < newest))
if told >= 0 and not late then
  limit = (kept[1] and stamp == newest) and math.min(told, limit) or told
  newest = math.max(stamp, 0)
  if bounded(w, limit) < before then lowered = now end
  redis.call('HSET', w.state, 'l', text(limit), 't', text(newest))
end

if refused > 0 then
  local news = sent >= struck
  if news and sent >= lowered then
    suspicious, since = now + SUSPICIOUS, 0
    caution = math.min(caution + 1, math.floor(bounded(w, limit) / 2))
  end
  if reset >= 0 then
    block(reset)
  elseif news then
    local longest = strikes > 0 and w.us * (math.min(2 ^ (strikes + 1), MOST_WINDOWS) - 1) or 0
    block(w.us + math.floor(longest * chance / 1000000))
    strikes = math.min(strikes + 1, MOST_STRIKES)
  end
  if news then struck = now end
else
  if sent >= struck then strikes = 0 end
  since = since + accepted
  if since >= SELDOM then since, caution = 0, math.max(0, caution - 1) end
  if remaining == 0 and reset >= 0 then block(math.min(reset, w.us)) end
end

local seen = {}
for till, count in string.gmatch(kept[3] or '', '(%d+):(%d+)') do
  if tonumber(till) > now then seen[#seen + 1] = { tonumber(till), tonumber(count) } end
end
if told >= 0 and remaining >= 0 and now - sent <= TRIP then
  local others = told - remaining - redis.call('ZCOUNT', w.key, instant(sent - w.us + 1), '+inf')
  if others > 0 then
    suspicious = now + SUSPICIOUS
    while #seen > 0 and seen[#seen][2] <= others do seen[#seen] = nil end
    seen[#seen + 1] = { now + YIELD, others }
  end
end
local parts = {}
for _, each in ipairs(seen) do parts[#parts + 1] = text(each[1]) .. ':' .. text(each[2]) end

redis.call('HSET', w.state, 'f', table.concat(parts, ','), 'b', text(blocked), 's', text(suspicious), 'c', text(caution),
  'a', text(since), 'k', text(strikes), 'r', text(struck), 'w', text(lowered))
redis.call('PEXPIRE', w.state, text(KEPT_MS))
return { instant(now), before, bounded(w, limit) }
