-- Windows whose limit is learned: as a held one, and beside it what the exchange's answers have told of the limit.
--
--   5 learned  sorted set as of a held window, remembered TRIP longer than it counts; and a hash:
--              l limit as told, t its stamp, f "until:count,..." what others use, b blocked until, s suspicious until,
--              c caution, a accepted since, k strikes, r when it last struck, w when the limit was last lowered,
--              d when the next may be sent while spaced
--
-- policies/pacing.py decides alike, and says why: a test runs both on the same sequences.
local LEARNED = 5
local TRIP, CROWDED, KEPT_MS = 3000000, 2, 600000
local look_other, wait_other, take_other, near_other = look, wait_for, take, near

local function bounded(w, limit)
  if w.ceiling > 0 then limit = math.min(limit, w.ceiling) end
  return math.max(limit, w.floor, 1)
end

local function look_learned(w, now)
  w.ceiling, w.floor = w.burst, w.fifth
  local kept = redis.call('HMGET', w.state, 'l', 'f', 'b', 's', 'c', 'd')
  w.told = kept[1] and true or false
  w.limit = bounded(w, tonumber(kept[1] or w.start))
  if w.lost > 0 then w.limit = math.max(1, w.limit - math.ceil(w.limit * w.lost / 1000000)) end
  w.suspicious = tonumber(kept[4] or 0)
  w.others = now < w.suspicious and tonumber(kept[5] or 0) or 0
  local seen = 0
  for till, count in string.gmatch(kept[2] or '', '(%d+):(%d+)') do
    if tonumber(till) > now then seen = math.max(seen, tonumber(count)) end
  end
  w.others = w.others + seen
  w.room = math.max(1, w.limit - w.others)
  w.blocked, w.due = tonumber(kept[3] or 0), tonumber(kept[6] or 0)
  look_log(w, now)
end

local function wait_learned(w, cost, now)
  local us, in_flight = wait_log(w, math.min(cost, w.room) + w.limit - w.room, now)
  if in_flight then return us, true end
  us = math.max(us, w.blocked - now)
  if now < w.suspicious and CROWDED * w.used >= w.room then us = math.max(us, w.due - now) end
  return math.max(us, 0), false
end

local function take_learned(w, now, lease, id)
  local add = { 'ZADD', w.key }
  for part = 1, w.cost do
    add[#add + 1] = instant(lease)
    add[#add + 1] = id .. ':' .. part
  end
  redis.call(unpack(add))
  if bit.band(w.flags, RENEW) > 0 then
    redis.call('ZREMRANGEBYSCORE', w.key, '-inf', instant(now - w.us - TRIP))
    redis.call('PEXPIRE', w.key, text(math.ceil((w.us + TRIP + math.max(lease - now, 0)) / 1000) + SLACK_MS))
  end
  w.used = w.used + w.cost
  if now < w.suspicious then
    local gap = math.floor(w.cost * w.us / w.room)
    w.due = math.max(w.due, now - gap) + gap
    redis.call('HSET', w.state, 'd', text(w.due))
  end
end

look = function(w, now)
  if w.kind == LEARNED then return look_learned(w, now) end
  return look_other(w, now)
end
wait_for = function(w, cost, now)
  if w.kind == LEARNED then return wait_learned(w, cost, now) end
  return wait_other(w, cost, now)
end
take = function(w, now, lease, id)
  if w.kind == LEARNED then return take_learned(w, now, lease, id) end
  return take_other(w, now, lease, id)
end
near = function(w, now)
  if w.kind ~= LEARNED then return near_other(w, now) end
  local us, in_flight = wait_learned(w, math.max(1, math.floor(w.limit / 5)), now)
  return in_flight or us > 0
end
