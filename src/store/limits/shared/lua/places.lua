-- Places: concurrent requests are a sorted set of those under way, by when they are forgotten unless their gateway renews them.

local function busy(key, now)
  local removed = tolerant('ZREMRANGEBYSCORE', key, '-inf', milliseconds(now))
  if not removed then redis.call('DEL', key) end
  return redis.call('ZCARD', key)
end

local function hold(key, now, lease, member)
  redis.call('ZADD', key, milliseconds(now) + lease, member)
  redis.call('PEXPIRE', key, integer(lease + GRACE))
end
