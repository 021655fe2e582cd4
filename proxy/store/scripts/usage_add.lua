-- A part of an hour's usage is added, once, however often it is sent.
--
-- Each process numbers its parts of an hour from 1 on, and sends the next when the one before is answered: the last
-- number in the hash tells which have been added. It stands and falls with the sums: where the hash was lost, nothing is
-- remembered either, and the hole is noted.
--
-- KEYS   1 hour: '#source' -> last number, '#rows' -> rows that name somebody, '#holes' -> how often something was missing,
--        'count:tier:client' -> sum;  2 the hours that there are figures of
-- ARGV   1 source, 2 number, 3 how long it is kept (ms), 4 rows at most, 5 the hour, 6 the oldest that is kept,
--        7 the counts' names with spaces between, 8 whom there is no room to name,
--        then for each row: tier, client, and a sum for each count
-- Reply  1 added, 0 had been added before
local hour, number = KEYS[1], tonumber(ARGV[2])
redis.call('ZADD', KEYS[2], ARGV[5], ARGV[5])
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', '(' .. ARGV[6])
redis.call('PEXPIRE', KEYS[2], ARGV[3])

local mark = '#' .. ARGV[1]
local last = tonumber(redis.call('HGET', hour, mark) or 0)
if number <= last then return 0 end
redis.call('HSET', hour, mark, ARGV[2])
redis.call('PEXPIRE', hour, ARGV[3])
local holes = number ~= last + 1

local counts = {}
for name in string.gmatch(ARGV[7], '%S+') do counts[#counts + 1] = name end
local rows, new = tonumber(redis.call('HGET', hour, '#rows') or 0) or 0, 0
for at = 9, #ARGV, 2 + #counts do
  local whose = ':' .. ARGV[at] .. ':' .. ARGV[at + 1]
  if redis.call('HEXISTS', hour, counts[1] .. whose) == 0 then
    if rows + new >= tonumber(ARGV[4]) then
      whose = ':' .. ARGV[at] .. ':' .. ARGV[8]
    else
      new = new + 1
    end
  end
  for i, count in ipairs(counts) do
    local sum = ARGV[at + 1 + i]
    -- What a stranger has put there is no number: the others are counted all the same.
    if (sum ~= '0' or i == 1) and type(redis.pcall('HINCRBY', hour, count .. whose, sum)) == 'table' then holes = true end
  end
end
if new > 0 then redis.pcall('HINCRBY', hour, '#rows', new) end
if holes then redis.pcall('HINCRBY', hour, '#holes', 1) end
return 1
