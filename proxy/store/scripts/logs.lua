-- The windows as they are kept in Redis; this part stands before each script that looks at them.
--
--   1 held     sorted set: a member for each request, scored by the instant from which it counts for one window more:
--              while in flight the end of its lease, from the reply on the instant of the reply
--   2 sent     sorted set: a member for each request, scored by the instant of sending
--   3 slotted  hash: sums by the number of the slot, f and n the first and last number, t the total, w the window
--   4 bucket   text: when it will be full again, as whole microseconds and 1/limit parts of one, then limit and window
--
-- Numbers are whole microseconds below 2^53, so that Lua's doubles are exact. The Python side decides alike
-- (policies/window.py, slotted.py, bucket.py): a test runs both on the same sequences.

local HELD, SENT, SLOTTED, BUCKET = 1, 2, 3, 4
local SHADOW, REFUSES, DIVIDED, SPACES, RENEW, ADDRESS = 1, 2, 4, 8, 16, 32
local SLACK_MS = 30000 -- keys outlive what they count by so much, and are renewed several times in it

local function text(number) return string.format('%.0f', number) end

local function clock(given)
  local fixed = tonumber(given)
  if fixed > 0 then return fixed end
  local t = redis.call('TIME')
  return t[1] * 1000000 + t[2]
end

-- The windows of `keys` from `first` on, as `blob` describes them; behind them stand the keys of what is learned of
-- some. `lost` millionths of what is divided belong to others, and of the address's windows only `part` may be used.
local function windows(keys, first, blob, lost, part)
  local found, at, count = {}, 1, #blob / 56
  local beside = first + count
  for i = first, first + count - 1 do
    local w = { key = keys[i], lost = 0 }
    w.kind, w.limit, w.us, w.cost, w.flags, w.burst, w.fifth, at = struct.unpack('<ddddddd', blob, at)
    if w.kind == 5 then
      w.state, w.start, w.lost = keys[beside], w.limit, lost
      beside = beside + 1
    elseif lost > 0 and w.kind ~= BUCKET and bit.band(w.flags, DIVIDED) > 0 then
      w.limit = w.limit - math.ceil(w.limit * lost / 1000000)
    end
    if part and part < 1000000 and bit.band(w.flags, ADDRESS) > 0 then
      if w.kind == BUCKET then w.burst = math.max(1, math.floor(w.burst * part / 1000000))
      else w.limit = math.max(1, math.floor(w.limit * part / 1000000)) end
    end
    found[#found + 1] = w
  end
  return found
end

-- Writing a number out is what costs most here: the same few instants are written out once.
local written = {}
local function instant(us)
  local known = written[us]
  if not known then
    known = text(us)
    written[us] = known
  end
  return known
end

local function look(w, now) w.used = redis.call('ZCOUNT', w.key, instant(now - w.us + 1), '+inf') end

-- How long until the cost fits, and whether only a reply can tell.
local function wait_for(w, cost, now)
  local over = w.used + cost - w.limit
  if over <= 0 then return 0, false end
  if cost > w.limit then return w.us, w.kind == HELD end
  local rank = over - 1 - w.used -- of those that count, from the newest backwards
  local stamp = tonumber(redis.call('ZRANGE', w.key, rank, rank, 'WITHSCORES')[2])
  return stamp + w.us - now, stamp > now
end

-- Take the cost; what is in flight is scored `lease`, and `id` makes its members unique.
local function take(w, now, lease, id)
  local score = instant(w.kind == HELD and lease or now)
  if w.cost == 1 then
    redis.call('ZADD', w.key, score, id .. ':1')
  else
    local add = { 'ZADD', w.key }
    for part = 1, w.cost do
      add[#add + 1] = score
      add[#add + 1] = id .. ':' .. part
    end
    redis.call(unpack(add))
  end
  if bit.band(w.flags, RENEW) > 0 then
    redis.call('ZREMRANGEBYSCORE', w.key, '-inf', instant(now - w.us))
    redis.call('PEXPIRE', w.key, text(math.ceil((w.us + math.max(lease - now, 0)) / 1000) + SLACK_MS))
  end
  w.used = w.used + w.cost
end

-- After taking: is there no room for another fifth?
local function near(w) return w.used + w.fifth > w.limit end

local look_log, wait_log = look, wait_for
