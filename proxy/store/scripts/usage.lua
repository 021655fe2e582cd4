-- How full windows are, for people and metrics.
-- KEYS   1 state, then windows
-- ARGV   1 clock, 2 the windows, as windows() reads
-- Reply  used, capacity, wait for one more, in flight, and of a learned window limit, told, others, blocked for so long;
--        for each window
local now = clock(ARGV[1])
local reply = {}
for _, w in ipairs(windows(KEYS, 2, ARGV[2], tonumber(redis.call('HGET', KEYS[1], 'lost') or 0))) do
  look(w, now)
  local us, in_flight = wait_for(w, 1, now)
  reply[#reply + 1] = w.used
  reply[#reply + 1] = w.kind == BUCKET and w.burst or w.room or w.limit
  reply[#reply + 1] = text(us)
  reply[#reply + 1] = in_flight and 1 or 0
  reply[#reply + 1] = w.limit
  reply[#reply + 1] = w.told and 1 or 0
  reply[#reply + 1] = w.others or 0
  reply[#reply + 1] = text(math.max(0, (w.blocked or 0) - now))
end
return reply
