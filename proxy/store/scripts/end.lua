-- Reservations end: completed (held windows run on from now) or given back (what was never sent). Each ends once.
-- KEYS   1 flying, then windows
-- ARGV   1 clock, then for each reservation: id, c or r, the place in KEYS of the window that shows whether it is still
--        in flight (1: flying), how many windows, and for each of those: its place in KEYS, kind, cost
local LEARNED = 5
local now = clock(ARGV[1])
local score = text(now)
local at, ended = 2, 0

local function complete(key, id, cost)
  if cost == 1 then return redis.call('ZADD', key, 'XX', 'LT', score, id .. ':1') end
  local add = { 'ZADD', key, 'XX', 'LT' }
  for part = 1, cost do
    add[#add + 1] = score
    add[#add + 1] = id .. ':' .. part
  end
  return redis.call(unpack(add))
end

local function give_back(key, kind, id, cost)
  if kind == HELD or kind == LEARNED then
    local gone = { 'ZREM', key }
    for part = 1, cost do gone[#gone + 1] = id .. ':' .. part end
    redis.call(unpack(gone))
  elseif kind == BUCKET then
    local missing, limit, us = read_bucket(key, now)
    if missing > 0 then keep_bucket({ key = key, limit = limit, us = us, missing = math.max(0, missing - cost * us) }, now) end
  end
end

while at <= #ARGV do
  local id, completed, mark, count = ARGV[at], ARGV[at + 1] == 'c', tonumber(ARGV[at + 2]), tonumber(ARGV[at + 3])
  at = at + 4
  local out = true
  if mark == 1 then
    out = redis.call('ZREM', KEYS[1], id) == 1
  elseif not completed then
    out = tonumber(redis.call('ZSCORE', KEYS[mark], id .. ':1') or 0) > now
  end
  if out then
    ended = ended + 1
    for i = at, at + 3 * (count - 1), 3 do
      local key, kind, cost = KEYS[tonumber(ARGV[i])], tonumber(ARGV[i + 1]), tonumber(ARGV[i + 2])
      -- LT moves only what is still in flight, back from the end of its lease to now: whoever comes twice changes nothing.
      if not completed then give_back(key, kind, id, cost)
      elseif kind == HELD or kind == LEARNED then complete(key, id, cost) end
    end
  end
  at = at + 3 * count
end
return { score, ended }
