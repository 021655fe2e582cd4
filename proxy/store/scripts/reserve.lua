-- All charges of a request, or none.
-- KEYS   1 state, 2 flying, then the windows
-- ARGV   1 clock (0: Redis' own), 2 not after (a call that comes later than its caller waits is void; 0: whenever),
--        3 id, 4 lease (0: no reply ends it), 5 ask (1) or only record (0), 6 sent upstream (1), 7 the window in which a
--        member shows that this was granted before (0: none does, look into flying), 8 the windows, as windows() reads,
--        9 how much of the address's windows may be used, in millionths
-- Reply  {0, now, over, near, limit and use...} granted: masks of shadow windows without room and of windows nearly full,
--            and how many of how many are used of each window that is spaced
--        {1, now, wait, binding, in flight} deferred   {2, now, wait} banned   {3, now, wait} holding after a cold start
--        {4, now} void   {5, now} granted before
local now = clock(ARGV[1])
local last = tonumber(ARGV[2])
if last > 0 and now > last then return { 4, instant(now) } end
local id, lease, ask, mark = ARGV[3], tonumber(ARGV[4]), ARGV[5] == '1', tonumber(ARGV[7])
if lease > 0 and redis.call('ZSCORE', KEYS[2 + mark], mark > 0 and id .. ':1' or id) then return { 5, instant(now) } end

local state = redis.call('HMGET', KEYS[1], 'boot', 'lost', 'ban')
local boot = tonumber(state[1])
if not boot then
  boot = now
  redis.call('HSET', KEYS[1], 'boot', instant(now))
end
local ban = tonumber(state[3] or 0)
if ask and ARGV[6] == '1' and ban > 0 then return { 2, instant(now), text(math.max(0, ban - now)) } end

local all, hold = windows(KEYS, 3, ARGV[8], ask and tonumber(state[2] or 0) or 0, tonumber(ARGV[9])), 0
for _, w in ipairs(all) do
  if w.kind == HELD and bit.band(w.flags, DIVIDED) > 0 then hold = math.max(hold, boot + w.us - now) end
end
if ask and hold > 0 then return { 3, instant(now), text(hold) } end

local over, skipped, binding, wait, flying, refuses = 0, {}, 0, 0, false, false
for i, w in ipairs(all) do
  look(w, now)
  if ask then
    local us, in_flight = wait_for(w, w.cost, now)
    if us > 0 then
      local refusing = bit.band(w.flags, REFUSES) > 0
      if bit.band(w.flags, SHADOW) > 0 then
        over = over + 2 ^ (i - 1)
        skipped[i] = true
      elseif binding == 0 or (refusing and not refuses)
        or (refusing == refuses and not flying and (in_flight or us > wait)) then
        binding, wait, flying, refuses = i, us, in_flight, refusing
      end
    end
  end
end
if binding > 0 then return { 1, instant(now), text(wait), binding, flying and 1 or 0 } end

local reply, close = { 0, instant(now), over, 0 }, 0
for i, w in ipairs(all) do
  if not skipped[i] then
    take(w, now, now + lease, id)
    if near(w, now) then close = close + 2 ^ (i - 1) end
  end
  if bit.band(w.flags, SPACES) > 0 then
    reply[#reply + 1] = w.limit
    reply[#reply + 1] = w.used
  end
end
if lease > 0 and mark == 0 then redis.call('ZADD', KEYS[2], instant(now + lease), id) end
reply[4] = close
return reply
