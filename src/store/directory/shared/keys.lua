#!lua name=@LIBRARY@

-- Keys and teams that several gateways share, each of which has all of them in its ledger. Nothing here knows what is in a
-- record: gateways join what they find with what they have, and write what has come of it, over what they have seen only.
--
-- The first key is a text, "epoch:number": the number of the last change, since what is here was begun. The second is a
-- hash of the records by their fields. The third is a sorted set of the fields by the numbers of their last changes.

local MOST_BYTES = 1048576
-- No caller waits for more than that at a time, besides one record.
local ENOUGH_BYTES = 131072

-- A key of another type was written by somebody else. Any other failure is one.
local function tolerant(...)
  local reply = redis.pcall(...)
  if type(reply) ~= 'table' or not reply.err then return reply end
  if reply.err:find('WRONGTYPE', 1, true) then return nil end
  error(reply)
end

local function whole(number)
  return string.format('%.0f', tonumber(number) or 0)
end

-- What is not whole (a part was evicted, or written by somebody else) is begun anew: every gateway has all of it.
local function read_state(keys)
  local state = tolerant('GET', keys[1])
  local records, fields = tolerant('HLEN', keys[2]), tolerant('ZCARD', keys[3])
  if state and records and records == fields then
    local epoch, changes = state:match('^(%x+):(%d+)$')
    local last = redis.call('ZRANGE', keys[3], '-1', '-1', 'WITHSCORES')[2] or 0
    changes = tonumber(changes)
    -- Numbers above are not whole here.
    if epoch and changes < 9007199254740992 and tonumber(last) == changes then return epoch, changes end
  end
  redis.call('DEL', unpack(keys))
end

-- Takes records, each unless it was changed since the caller has seen it, and returns what else was changed since then, the
-- oldest first. Arguments: the epoch, should one begin now; the epoch that the caller knows, the number of the last change
-- in it that it has seen, and how many records it takes; then for each of its own the field and the record. Returns the
-- epoch, the number of the last change, whether the caller has to begin anew, whether there is more; then for each record
-- the field, the record and the number of its change.
local function exchange(keys, args)
  local epoch, changes = read_state(keys)
  if not epoch then epoch, changes = args[1], 0 end
  local since, anew = tonumber(args[3]), '0'
  if epoch ~= args[2] or since > changes then since, anew = 0, '1' end
  local before = changes
  for i = 5, #args, 2 do
    local last = tonumber(redis.call('ZSCORE', keys[3], args[i]) or 0) or 0
    if last <= since then
      changes = changes + 1
      redis.call('HSET', keys[2], args[i], args[i + 1])
      redis.call('ZADD', keys[3], whole(changes), args[i])
    end
  end
  if changes > before then redis.call('SET', keys[1], epoch .. ':' .. whole(changes)) end
  local found = redis.call('ZRANGE', keys[3], '(' .. whole(since), '+inf', 'BYSCORE', 'LIMIT', '0', args[4], 'WITHSCORES')
  local reply = { epoch, whole(changes), anew, #found < 2 * tonumber(args[4]) and '0' or '1' }
  local bytes = 0
  for i = 1, #found, 2 do
    if bytes > ENOUGH_BYTES then
      reply[4] = '1'
      break
    end
    local record = redis.call('HGET', keys[2], found[i]) or ''
    if #record > MOST_BYTES then record = '' end
    bytes = bytes + #record
    for _, part in ipairs({ found[i], record, whole(found[i + 1]) }) do table.insert(reply, part) end
  end
  return reply
end

-- Does all that gateways do, in keys that nobody shares, so that it fails where one of them would.
local function probe(keys)
  redis.call('DEL', unpack(keys))
  for _ = 1, 2 do exchange(keys, { '00', '', '0', '1', 'key:probe', '{}' }) end
  redis.call('MGET', keys[1])
  redis.call('TYPE', keys[2])
  redis.call('DEL', unpack(keys))
  return 1
end

redis.register_function('@LIBRARY@_probe', probe)
redis.register_function('@LIBRARY@_exchange', exchange)
