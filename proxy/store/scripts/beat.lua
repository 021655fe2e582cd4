-- A gateway says that it is there, and learns who else is and which share of the budget is its own.
--
-- A share is counted in millionths. What a gateway may use when it is cut off is its share as it last heard of it, so
-- the shares in the table never add up to more than the whole, and a share is only given to somebody else after its
-- owner has said that it goes by the smaller one. `lost` is what belongs to gateways that have not been heard of, or
-- that do not yet spend from the shared windows: the others leave it alone.
--
-- KEYS   1 state, 2 replicas (id -> "at share mode"), 3 about (id -> what people want to know), 4 flying
-- ARGV   1 clock, 2 not after, 3 id, 4 shared (1) or not (0), 5 share that it goes by, 6 gateways at least,
--        7 lost after, 8 forgotten after, 9 about ('' for unchanged),
--        then pairs: id and share of a gateway to enter as lost where it is missing, because the table was lost
-- Reply  {now, boot, share, lost, ban: until, begun, times, lifted, trade switch: when, mode, version of the accounts, then
--         id, at, share, mode for each gateway} or {'void', now}
local WHOLE = 1000000
local now = clock(ARGV[1])
local last = tonumber(ARGV[2])
if last > 0 and now > last then return { 'void', text(now) } end
local id, mode, have = ARGV[3], ARGV[4] == '1' and 'shared' or 'own', tonumber(ARGV[5])
local least, lost_after, forgotten_after = tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8])

local boot = redis.call('HGET', KEYS[1], 'boot')
if not boot then
  boot = text(now)
  redis.call('HSET', KEYS[1], 'boot', boot)
end
if ARGV[9] ~= '' then redis.call('HSET', KEYS[3], id, ARGV[9]) end
redis.call('ZREMRANGEBYSCORE', KEYS[4], '-inf', text(now))

for at = 10, #ARGV, 2 do
  if ARGV[at] ~= id then
    redis.call('HSETNX', KEYS[2], ARGV[at], text(now - lost_after - 1) .. ' ' .. ARGV[at + 1] .. ' own')
  end
end

local count, others, lost, table_ = 1, 0, 0, {}
local kept = redis.call('HGETALL', KEYS[2])
for i = 1, #kept, 2 do
  local other = kept[i]
  if other ~= id then
    local at, share, how = string.match(kept[i + 1], '^(%d+) (%d+) (%a+)$')
    at, share = tonumber(at), tonumber(share)
    if now - at > forgotten_after then
      redis.call('HDEL', KEYS[2], other)
      redis.call('HDEL', KEYS[3], other)
    else
      count, others = count + 1, others + share
      if now - at > lost_after or how ~= 'shared' then lost = lost + share end
      for _, value in ipairs({ other, text(at), share, how }) do table_[#table_ + 1] = value end
    end
  end
end

local share = math.max(0, math.min(math.floor(WHOLE / math.max(count, least)), WHOLE - others))
local entered = math.max(share, math.min(have, WHOLE - others))
if mode ~= 'shared' then lost = lost + entered end
redis.call('HSET', KEYS[2], id, text(now) .. ' ' .. text(entered) .. ' ' .. mode)
redis.call('HSET', KEYS[1], 'lost', text(math.min(lost, WHOLE)))
local known = redis.call('HMGET', KEYS[1], 'ban', 'begun', 'bans', 'lifted', 'switched', 'trading', 'accounts')
local reply = { text(now), boot, share, math.min(lost, WHOLE) }
for i = 1, 7 do reply[#reply + 1] = known[i] or '0' end
for _, value in ipairs({ id, text(now), entered, mode }) do reply[#reply + 1] = value end
for _, value in ipairs(table_) do reply[#reply + 1] = value end
return reply
