-- The windows that are not logs: what stands in logs.lua, for all kinds. Most requests do without this part.
local SLOTS = 64

local function slot_of(us) return math.max(1, math.ceil(us / SLOTS)) end

local function expiry(w, number) return (number + 1) * w.slot + w.us end

local function forget_slots(w, now)
  while w.first and expiry(w, w.first) <= now do
    local field = text(w.first)
    local sum = redis.call('HGET', w.key, field)
    if sum then
      w.used = w.used - sum
      redis.call('HDEL', w.key, field)
    end
    if w.first == w.last then w.first = nil else w.first = w.first + 1 end
  end
end

local function keep_slots(w)
  redis.call('HSET', w.key, 'f', text(w.first), 'n', text(w.last), 't', text(w.used), 'w', text(w.us))
  redis.call('PEXPIRE', w.key, text(math.ceil((w.us + 2 * w.slot) / 1000) + SLACK_MS))
end

local function look_slots(w, now)
  w.slot = slot_of(w.us)
  local kept = redis.call('HMGET', w.key, 'f', 'n', 't', 'w')
  w.first, w.last, w.used = tonumber(kept[1]), tonumber(kept[2]), tonumber(kept[3] or 0)
  local length, first = tonumber(kept[4] or w.us), w.first
  if length == w.us then
    forget_slots(w, now)
    if first and not w.first then redis.call('DEL', w.key)
    elseif first ~= w.first then redis.call('HSET', w.key, 'f', text(w.first), 't', text(w.used)) end
    return
  end
  -- The rule has another length now: what counts by the old one is counted from now on again.
  local old = { key = w.key, us = length, slot = slot_of(length), first = w.first, last = w.last, used = w.used }
  forget_slots(old, now)
  redis.call('DEL', w.key)
  w.first, w.last, w.used = nil, nil, old.used
  if old.used > 0 then
    w.first = math.floor(now / w.slot)
    w.last = w.first
    redis.call('HSET', w.key, text(w.first), text(old.used))
    keep_slots(w)
  end
end

local function wait_slots(w, cost, now)
  local over = w.used + cost - w.limit
  if over <= 0 then return 0, false end
  if w.first then
    for number = w.first, w.last do
      over = over - (redis.call('HGET', w.key, text(number)) or 0)
      if over <= 0 then return expiry(w, number) - now, false end
    end
  end
  return w.us, false
end

local function take_slots(w, now)
  local number = math.floor(now / w.slot)
  if not w.first then w.first, w.last = number, number
  elseif number > w.last then w.last = number end
  w.used = w.used + w.cost
  redis.call('HINCRBY', w.key, text(w.last), w.cost)
  keep_slots(w)
end

-- What is kept of a bucket: how much is missing of it, in 1/limit microseconds, by the limit and window of then.
local function read_bucket(key, now)
  local kept = redis.call('GET', key)
  if not kept then return 0 end
  local whole, part, limit, us = string.match(kept, '^(%d+) (%d+) (%d+) (%d+)$')
  limit, us = tonumber(limit), tonumber(us)
  return math.max(0, (whole - now) * limit + part), limit, us
end

local function keep_bucket(w, now)
  local whole = math.floor(w.missing / w.limit)
  local kept = text(now + whole) .. ' ' .. text(w.missing - whole * w.limit) .. ' ' .. text(w.limit) .. ' ' .. text(w.us)
  redis.call('SET', w.key, kept, 'PX', text(math.ceil(whole / 1000) + SLACK_MS))
end

local function look_bucket(w, now)
  local missing, limit, us = read_bucket(w.key, now)
  if missing > 0 and (limit ~= w.limit or us ~= w.us) then missing = math.min(math.ceil(missing / us), w.burst) * w.us end
  w.missing = missing
  w.used = math.ceil(missing / w.us)
end

local function wait_bucket(w, cost)
  local late = w.missing + (cost - w.burst) * w.us
  return late <= 0 and 0 or math.ceil(late / w.limit), false
end

local function take_bucket(w, now)
  w.missing = w.missing + w.cost * w.us
  keep_bucket(w, now)
end

local LOOK = { look, look, look_slots, look_bucket }
local WAIT = { wait_for, wait_for, wait_slots, wait_bucket }
local TAKE = { take, take, take_slots, take_bucket }
local near_log = near

look = function(w, now) return LOOK[w.kind](w, now) end
wait_for = function(w, cost, now) return WAIT[w.kind](w, cost, now) end
take = function(w, now, lease, id) return TAKE[w.kind](w, now, lease, id) end
near = function(w)
  if w.kind == BUCKET then return w.missing + (w.fifth - w.burst) * w.us > 0 end
  return near_log(w)
end
