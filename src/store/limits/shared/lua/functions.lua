-- What a gateway calls. Nothing is taken unless all of it is.

-- Takes of every cell and budget or of none. Arguments: time, how ("take", "more" for a call that took before, "look" for
-- nothing), the call's member of sets, its lease in milliseconds, the gateway's ledger, and how many of the keys are cells;
-- then for each cell: its kind ("rate" or "slots"), the interval, the burst, how many, and whether it is a shadow (1); then
-- for each budget a report with the call in it. Returns whether all had room (1), then for each cell: the wait, how many
-- are left, nanoseconds until all are, and the take's number; then for each budget whether it is spent (1) or lost (2), and
-- what others have used and reserved.
local function admit(keys, args)
  local now, how, member, lease = read_time(args[1]), args[2], args[3], tonumber(args[4])
  local ledger, count = args[5], tonumber(args[6])
  local cells, budgets, admitted = {}, {}, 1
  -- Whatever is no text reads as nothing here, a set of places too.
  local texts = count > 0 and redis.call('MGET', unpack(keys, 1, count))
  for i = 1, count do
    local at = 6 + (i - 1) * 5
    local interval, burst, n = tonumber(args[at + 2]), tonumber(args[at + 3]), tonumber(args[at + 4])
    local cell = {
      is_rate = args[at + 1] == 'rate', n = n, burst = burst, full = burst * interval,
      level = false, is_set_back = false, busy = 0, wait = HAS_ROOM, mark = 0,
    }
    if cell.is_rate then
      local level = load(texts[i], now, interval, burst, how == 'more')
      cell.level, cell.is_set_back = level, level.at - now > SLACK
      cell.wait = attempt(level, now, cell.full, burst, n)
    else
      cell.busy = busy(keys[i], now)
      if cell.busy >= burst then cell.wait = SLOT_WAIT end
    end
    if cell.wait ~= HAS_ROOM and args[at + 5] ~= '1' then admitted = 0 end
    cells[i] = cell
  end
  for i = count + 1, #keys do
    local budget = weigh(keys[i], ledger, args, 6 + count * 5 + (i - count - 1) * REPORT, now)
    if budget.is_spent or budget.is_lost then admitted = 0 end
    table.insert(budgets, budget)
  end
  if admitted == 1 and how ~= 'look' then
    for i, budget in ipairs(budgets) do note(keys[count + i], ledger, budget, now) end
    for i, cell in ipairs(cells) do
      local key = keys[i]
      if cell.wait ~= HAS_ROOM then
        -- A shadow takes nothing where it would have refused.
      elseif cell.is_rate then
        cell.mark = take(cell.level, now, cell.n)
        save(key, cell.level)
      else
        hold(key, now, lease, member)
        cell.busy = cell.busy + 1
      end
    end
  end
  if how ~= 'look' then
    -- From now on time passes for those who are refused, too.
    for i, cell in ipairs(cells) do
      local is_taken = admitted == 1 and cell.wait == HAS_ROOM
      if cell.is_set_back and not is_taken then save(keys[i], cell.level) end
    end
  end
  local reply, last = { admitted }, 1
  for _, cell in ipairs(cells) do
    local remaining, reset
    if cell.is_rate then
      remaining, reset = left(cell.level, now, cell.full)
    else
      remaining, reset = math.max(cell.burst - cell.busy, 0), cell.busy > 0 and SLOT_WAIT or 0
    end
    reply[last + 1], reply[last + 2], reply[last + 3], reply[last + 4] = cell.wait, remaining, reset, cell.mark
    last = last + 4
  end
  for _, budget in ipairs(budgets) do answer(budget, reply) end
  return reply
end

-- Ends what was taken. The first key says which batch of a gateway's was the last one: a batch that comes again, since its
-- reply was lost, does nothing. Arguments: time, the batch's number; then for each further key: what is done ("back",
-- "some" of what is given back later, "owe" or "free"), the interval, the burst, how many, and the take's number or the call's member.
local function settle(keys, args)
  local now, serial = read_time(args[1]), tonumber(args[2])
  local texts = redis.call('MGET', unpack(keys))
  if serial <= (tonumber(texts[1]) or 0) then return 0 end
  local levels = {}
  for i = 2, #keys do
    local key, at = keys[i], 2 + (i - 2) * 5
    local what, interval, burst = args[at + 1], tonumber(args[at + 2]), tonumber(args[at + 3])
    local n, which = tonumber(args[at + 4]), args[at + 5]
    if what == 'free' then
      tolerant('ZREM', key, which)
    else
      local level = levels[key] or load(texts[i], now, interval, burst, true)
      levels[key] = level
      if what == 'owe' then
        owe(level, now, n)
      else
        give_back(level, n, tonumber(which), what == 'back')
      end
    end
  end
  for key, level in pairs(levels) do save(key, level) end
  redis.call('SET', keys[1], args[2], 'PX', '3600000')
  return 1
end

-- Goes on holding places. Arguments: time, the lease in milliseconds, then for each key a member.
local function renew(keys, args)
  local now, lease = read_time(args[1]), tonumber(args[2])
  for i, key in ipairs(keys) do
    busy(key, now)
    hold(key, now, lease, args[i + 2])
  end
  return #keys
end

-- Does all that the others do, in keys that nobody counts in, so that it fails where one of them would.
local function probe(keys)
  local level, slots = keys[1], keys[2]
  redis.call('DEL', unpack(keys))
  admit({ level, slots }, {
    '0', 'take', 'probe', '1000', 'probe', '2', 'rate', '1000000', '1000', '1', '0', 'slots', '0', '1000', '1', '0',
  })
  settle({ keys[3], level, slots }, { '0', '1', 'owe', '1000000', '1000', '1', '0', 'free', '0', '1000', '0', 'probe' })
  renew({ slots }, { '0', '1000', 'probe' })
  redis.call('HSET', keys[4], 'over', '1 1 1 0 1')
  report({ keys[4] }, { '0', 'probe', '1', '1', '1', '0', '1', '0', '1000', '1000', '', '0' })
  restore({ keys[4] }, { 'probe 1', '1000', 'other', '1 1 1 0 1' })
  redis.call('DEL', unpack(keys))
  return 1
end

redis.register_function('@LIBRARY@_probe', probe)
redis.register_function('@LIBRARY@_admit', admit)
redis.register_function('@LIBRARY@_settle', settle)
redis.register_function('@LIBRARY@_renew', renew)
redis.register_function('@LIBRARY@_report', report)
redis.register_function('@LIBRARY@_restore', restore)
