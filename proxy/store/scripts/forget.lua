-- The windows may lack what was sent lately: another server than before, or the same one started anew. Nothing exact is
-- granted until one window has passed.
-- KEYS 1 state; ARGV 1 clock
redis.call('HSET', KEYS[1], 'boot', text(clock(ARGV[1])))
return 1
