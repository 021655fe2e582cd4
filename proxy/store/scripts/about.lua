-- What the gateways say of themselves.
-- KEYS 1 about
return redis.call('HGETALL', KEYS[1])
