#!lua name=@LIBRARY@

-- What gateways that share answers agree about, besides the answers themselves: which of them are to be forgotten, and who
-- of them asks an upstream for one. The answers lie by themselves, in keys of their own.
--
-- Purges are a hash: an epoch, how many purges there were in it, and of each purge its number, by what it takes. One that
-- is made again has a later number alone. An answer says how many there were when it was asked for.

local MOST_PURGES = 1000
local ALL = 'purge:[null,null,null]'
-- Longer than any answer is kept, in milliseconds: 400 days.
local KEEP = '34560000000'

-- A key of another type was written by somebody else. Any other failure is one.
local function tolerant(...)
  local reply = redis.pcall(...)
  if type(reply) ~= 'table' or not reply.err then return reply end
  if reply.err:find('WRONGTYPE', 1, true) then return nil end
  error(reply)
end

local function whole(number)
  return string.format('%.0f', number)
end

local function read(key)
  local epoch, count = tolerant('HGET', key, 'epoch'), tolerant('HGET', key, 'count')
  count = tonumber(count or nil)
  -- Numbers above are not whole here.
  if epoch and epoch:match('^%x+$') and count and count < 9007199254740992 then return epoch, count end
end

-- Notes purges, and tells of all where the caller does not know the last of them. Arguments: the epoch, should one begin now;
-- the epoch that the caller knows, and how many purges it knows there; whether they are to be kept for longer; then those
-- that are to be noted. Returns the epoch and how many there are; then of each what it takes and its number, or nothing
-- where the caller knows all.
local function exchange(keys, args)
  local key = keys[1]
  local epoch, count = read(key)
  -- A server that has lost some would give their numbers to others.
  local anew = not epoch or (epoch == args[2] and count < tonumber(args[3]))
  if anew then
    epoch, count = args[1], 0
    redis.call('DEL', key)
    redis.call('HSET', key, 'epoch', epoch, 'count', '0')
  end
  for i = 5, #args do
    count = count + 1
    redis.call('HSET', key, 'purge:' .. args[i], whole(count))
  end
  -- What is not remembered one by one is remembered as one that takes all.
  if redis.call('HLEN', key) > MOST_PURGES + 2 then
    count = count + 1
    redis.call('DEL', key)
    redis.call('HSET', key, 'epoch', epoch, ALL, whole(count))
  end
  if #args > 4 then redis.call('HSET', key, 'count', whole(count)) end
  if anew or #args > 4 or args[4] == '1' then redis.call('PEXPIRE', key, KEEP) end
  local reply = { epoch, whole(count) }
  if epoch == args[2] and count == tonumber(args[3]) then return reply end
  local fields = redis.call('HGETALL', key)
  for i = 1, #fields, 2 do
    if fields[i]:sub(1, 6) == 'purge:' then
      table.insert(reply, fields[i]:sub(7))
      table.insert(reply, fields[i + 1])
    end
  end
  return reply
end

-- Keeps a lease for so many milliseconds more, if it is still the caller's, who tells the word that it was taken with.
local function renew(keys, args)
  if tolerant('GET', keys[1]) ~= args[1] then return 0 end
  return redis.call('PEXPIRE', keys[1], args[2])
end

local function release(keys, args)
  if tolerant('GET', keys[1]) ~= args[1] then return 0 end
  return redis.call('DEL', keys[1])
end

-- Does all that gateways do, in keys that nobody shares, so that it fails where one of them would.
local function probe(keys)
  redis.call('DEL', unpack(keys))
  for _ = 1, 2 do exchange(keys, { '00', '', '0', '0', '[null,null,null]' }) end
  redis.call('SET', keys[2], 'probe', 'NX', 'PX', '1000')
  renew({ keys[2] }, { 'probe', '1000' })
  release({ keys[2] }, { 'probe' })
  redis.call('DEL', unpack(keys))
  return 1
end

redis.register_function('@LIBRARY@_probe', probe)
redis.register_function('@LIBRARY@_exchange', exchange)
redis.register_function('@LIBRARY@_renew', renew)
redis.register_function('@LIBRARY@_release', release)
