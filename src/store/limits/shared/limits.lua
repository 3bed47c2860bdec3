#!lua name=@LIBRARY@

-- Limits that several gateways count together. The same arithmetic as gcra.rs and cell.rs, to the last integer while a
-- limit stays the same: there is the explanation of each step. All numbers are whole and below 2^53, which a double holds exactly.
--
-- A rate is kept as a string of doubles: what has been taken and not yet restored, in nanoseconds; when that was so, in
-- microseconds; the number of the last take; the nanoseconds in which one is restored; then the last span between takes
-- that may yet be given back (the take that it begins with, how many are open in it, its lowest level), and behind that
-- the spans before it, the oldest first, which a take need not read. Concurrent requests are a sorted set of those under
-- way, by when they are forgotten unless their gateway renews them.
--
-- Of budgets each gateway tells what it has in all: what others have is added to it here.
--
-- Each function takes the time first, in microseconds, or 0 for this server's.

local MOST_OWED = 100 * 24 * 3600 * 1000000000
local SLACK = 1000000
local MOST_SPANS = 64
local FEWER_SPANS = 32
local HEAD = '<ddddddd'
local HEAD_BYTES = 56
local SPAN = '<ddd'
local SPAN_BYTES = 24
local SLOT_WAIT = 1000000000
-- For how many milliseconds a key outlives what it says: longer than a clock goes back unnoticed.
local GRACE = 10000
-- What an integer of a reply holds, whatever was read.
local MOST = 9000000000000000000
local HAS_ROOM = -2
local NEVER = -1
-- How many arguments a report of a budget has.
local REPORT = 10
-- What is said of a budget that is not the one of which a gateway has heard.
local LOST = 2
local EPOCH = 'epoch'

local function read_time(arg)
  local given = tonumber(arg)
  if given > 0 then return given end
  local time = redis.call('TIME')
  return tonumber(time[1]) * 1000000 + tonumber(time[2])
end

-- A key of another type was written by somebody else, and counts as nothing. Any other failure is one: where we may not
-- read, limits are not empty.
local function tolerant(...)
  local reply = redis.pcall(...)
  if type(reply) ~= 'table' or not reply.err then return reply end
  if reply.err:find('WRONGTYPE', 1, true) then return nil end
  error(reply)
end

-- What ends, and what takes more, began under limits that may be others by now: it leaves the interval as it is.
local function load(packed, now, interval, burst, keeps)
  -- Whatever is not what we wrote counts as nothing.
  if not packed or #packed < HEAD_BYTES or (#packed - HEAD_BYTES) % SPAN_BYTES ~= 0 then
    return { nanos = 0, at = now, takes = 0, interval = interval, mark = 0, open = 0, low = 0, spans = '' }
  end
  local nanos, at, takes, before, mark, open, low = struct.unpack(HEAD, packed)
  local level = { nanos = nanos, at = at, takes = takes, interval = before, mark = mark, open = open, low = low, spans = '' }
  if #packed > HEAD_BYTES then level.spans = packed:sub(HEAD_BYTES + 1) end
  if before ~= interval and not keeps then
    level.interval = interval
    -- The limit is another one now, and what was taken stays taken.
    local function resize(nanos)
      return math.min(math.floor(nanos / before * interval), burst * interval)
    end
    level.nanos, level.low = resize(level.nanos), resize(level.low)
    local spans = {}
    for at = 1, #level.spans, SPAN_BYTES do
      local mark, open, low = struct.unpack(SPAN, level.spans, at)
      table.insert(spans, struct.pack(SPAN, mark, open, resize(low)))
    end
    level.spans = table.concat(spans)
  end
  return level
end

local function save(key, level)
  local head = struct.pack(HEAD, level.nanos, level.at, level.takes, level.interval, level.mark, level.open, level.low)
  redis.call('SET', key, head .. level.spans, 'PX', math.ceil(level.nanos / 1000000) + GRACE)
end

local function pass(level, now)
  if now >= level.at then
    level.nanos = math.max(level.nanos - (now - level.at) * 1000, 0)
    level.at = now
    level.low = math.min(level.low, level.nanos)
  elseif level.at - now > SLACK then
    level.at = now
  end
end

-- Nanoseconds until `n` more have room, or one of the two words for that.
local function attempt(level, now, full, burst, n)
  pass(level, now)
  if n > burst then return NEVER end
  local over = level.nanos + n * level.interval - full
  if n == 0 or over <= 0 then return HAS_ROOM end
  return over + math.max(level.at - now, 0) * 1000
end

-- Returns all spans, the oldest first.
local function unfold(level)
  local marks, open, low = {}, {}, {}
  local count = 0
  for at = 1, #level.spans, SPAN_BYTES do
    count = count + 1
    marks[count], open[count], low[count] = struct.unpack(SPAN, level.spans, at)
  end
  if level.open > 0 then
    count = count + 1
    marks[count], open[count], low[count] = level.mark, level.open, level.low
  end
  return marks, open, low
end

local function fold(level, marks, open, low)
  local last = #marks
  if last == 0 then
    level.mark, level.open, level.low, level.spans = 0, 0, 0, ''
    return
  end
  level.mark, level.open, level.low = marks[last], open[last], low[last]
  local spans = {}
  for i = 1, last - 1 do spans[i] = struct.pack(SPAN, marks[i], open[i], low[i]) end
  level.spans = table.concat(spans)
end

local function join(marks, open, low, i)
  table.remove(marks, i)
  local joined_open, joined_low = table.remove(open, i), table.remove(low, i)
  if i > 1 then
    open[i - 1] = open[i - 1] + joined_open
    low[i - 1] = math.min(low[i - 1], joined_low)
  end
end

local function compact(level)
  local marks, open, low = unfold(level)
  local lowests, lowest = {}, math.huge
  for i = #low, 1, -1 do
    lowest = math.min(lowest, low[i])
    lowests[i] = lowest
  end
  while #lowests > FEWER_SPANS do
    local alike, least = 1, math.huge
    for i = 1, #lowests - 1 do
      local reach = lowests[i + 2] or level.nanos
      local ratio = lowests[i] == lowests[i + 1] and 1 or reach / lowests[i]
      if ratio < least then alike, least = i, ratio end
    end
    table.remove(lowests, alike + 1)
    join(marks, open, low, alike + 1)
  end
  fold(level, marks, open, low)
end

local function take(level, now, n)
  level.nanos = level.nanos + n * level.interval
  -- Never a number that a key had which is gone.
  level.takes = math.max(level.takes + 1, now)
  local before = level.open > 0 and struct.pack(SPAN, level.mark, level.open, level.low)
  level.mark, level.open, level.low = level.takes, 1, level.nanos
  if before then
    level.spans = level.spans .. before
    if #level.spans / SPAN_BYTES + 1 > MOST_SPANS then compact(level) end
  end
  return level.takes
end

local function give_back(level, n, mark, is_last)
  local less = n * level.interval
  local is_alone = is_last and level.open == 1
  if level.open > 0 and level.mark <= mark and (not is_alone or level.spans == '') then
    -- Most is given back of the last span, and its forerunners need not be read.
    less = math.min(less, level.low)
    level.nanos, level.low = level.nanos - less, level.low - less
    if is_last then level.open = level.open - 1 end
    if is_alone then level.mark, level.low = 0, 0 end
    return
  end
  local marks, open, low = unfold(level)
  local i = #marks
  while i >= 1 do
    less = math.min(less, low[i])
    if marks[i] <= mark then break end
    i = i - 1
  end
  if i == 0 then return end
  level.nanos = level.nanos - less
  for j = i, #low do low[j] = low[j] - less end
  if is_last then open[i] = open[i] - 1 end
  if open[i] == 0 then join(marks, open, low, i) end
  fold(level, marks, open, low)
end

local function owe(level, now, n)
  pass(level, now)
  level.nanos = math.min(level.nanos + n * level.interval, math.max(MOST_OWED, level.nanos))
end

local function left(level, now, full)
  pass(level, now)
  local room = math.max(full - level.nanos, 0)
  return math.floor(room / level.interval), level.nanos + math.max(level.at - now, 0) * 1000
end

local function milliseconds(now)
  return math.floor(now / 1000)
end

local function busy(key, now)
  local removed = tolerant('ZREMRANGEBYSCORE', key, '-inf', milliseconds(now))
  if not removed then redis.call('DEL', key) end
  return redis.call('ZCARD', key)
end

local function hold(key, now, lease, member)
  redis.call('ZADD', key, milliseconds(now) + lease, member)
  redis.call('PEXPIRE', key, lease + GRACE)
end

-- What gateways have of a budget is a hash with a field of each ledger: "number used reserved period until". What is written
-- otherwise counts as nothing, and neither does what is of an earlier period, or whose time is over. Beside them stands, as
-- `epoch`, by what report it was begun: by that gateways notice that it was lost, and bring back what they know of it.
local function parse(text)
  local numbers = { text:match('^(%d+) (%d+) (%d+) (%-?%d+) (%d+)$') }
  for i = 1, #numbers do
    numbers[i] = tonumber(numbers[i])
    if numbers[i] > MOST then return nil end
  end
  if #numbers == 5 then return numbers end
end

-- Reads a budget, and holds a gateway's report against it. Its arguments: the number, what is used, what is reserved, what of
-- that is for the call that asks, what all may have, the period's start, for how many milliseconds it counts (0: for as long
-- as it is kept), for how many it is kept, the epoch in which the gateway has heard of others (empty: in none), and what it has
-- heard that they used before that, or in none: less than that decides about no call.
local function weigh(key, ledger, args, at, now)
  local budget = {
    number = args[at + 1], used = args[at + 2], reserved = args[at + 3], period = args[at + 6],
    others_used = 0, others_reserved = 0, over = {}, others = {}, epoch = '',
    counts_for = tonumber(args[at + 7]), kept_for = tonumber(args[at + 8]),
  }
  local period, want, size = tonumber(budget.period), tonumber(args[at + 4]), tonumber(args[at + 5])
  local own = tonumber(budget.used) + tonumber(budget.reserved)
  budget.is_nothing = own == 0
  local fields = tolerant('HGETALL', key)
  budget.is_foreign = not fields
  for i = 1, #(fields or {}), 2 do
    local field, entry = fields[i], parse(fields[i + 1])
    if field == EPOCH then
      budget.epoch = fields[i + 1]
    elseif not entry then
      -- Somebody else's.
    elseif field == ledger then
      budget.is_nothing = false
      budget.is_late = entry[1] >= tonumber(budget.number)
      -- What was told later has the call in it.
      if budget.is_late and entry[4] == period then own = math.max(own, entry[2] + entry[3]) end
    elseif entry[4] < period or (entry[5] > 0 and entry[5] <= milliseconds(now)) then
      table.insert(budget.over, field)
    elseif entry[4] == period then
      budget.others_used = math.min(budget.others_used + entry[2], MOST)
      budget.others_reserved = math.min(budget.others_reserved + entry[3], MOST)
      table.insert(budget.others, field)
      table.insert(budget.others, fields[i + 1])
    end
  end
  local expected = args[at + 9]
  budget.is_lost = expected ~= '' and budget.epoch ~= expected
  local others_used = math.max(budget.others_used, tonumber(args[at + 10]))
  local before = others_used + budget.others_reserved + own - want
  budget.is_spent = before >= size or before + want > size
  return budget
end

local function note(key, ledger, budget, now)
  if budget.is_nothing or budget.is_late or budget.is_lost then return end
  if budget.is_foreign then redis.call('DEL', key) end
  if budget.epoch == '' then
    budget.epoch = ledger .. ' ' .. budget.number
    redis.call('HSET', key, EPOCH, budget.epoch)
  end
  local ends = 0
  if budget.counts_for > 0 then ends = milliseconds(now) + budget.counts_for end
  local entry = { budget.number, budget.used, budget.reserved, budget.period, string.format('%.0f', ends) }
  redis.call('HSET', key, ledger, table.concat(entry, ' '))
  for _, field in ipairs(budget.over) do redis.call('HDEL', key, field) end
  redis.call('PEXPIRE', key, budget.kept_for)
end

local function answer(budget, reply)
  table.insert(reply, budget.is_lost and LOST or budget.is_spent and 1 or 0)
  table.insert(reply, budget.others_used)
  table.insert(reply, budget.others_reserved)
end

-- Notes what a gateway has of budgets. Arguments: time, its ledger, then for each key those of a report. Returns for each key,
-- as texts, whether it is spent (1) or lost (2), what others have used and reserved, the epoch, how many others there are, and of
-- each of them the ledger and what stands there.
local function report(keys, args)
  local now, ledger, reply = read_time(args[1]), args[2], {}
  for i, key in ipairs(keys) do
    local budget = weigh(key, ledger, args, 2 + (i - 1) * REPORT, now)
    note(key, ledger, budget, now)
    local numbers = {}
    answer(budget, numbers)
    for _, number in ipairs(numbers) do table.insert(reply, string.format('%.0f', number)) end
    table.insert(reply, budget.epoch)
    table.insert(reply, string.format('%.0f', #budget.others / 2))
    for _, part in ipairs(budget.others) do table.insert(reply, part) end
  end
  return reply
end

-- Brings back what a gateway has heard of others, where less is known or nothing. Arguments: the epoch, should one begin now;
-- for how many milliseconds the budget is kept; then of each ledger its name and what stood there. Returns the epoch.
local function restore(keys, args)
  local key = keys[1]
  local epoch = tolerant('HGET', key, EPOCH)
  if epoch == nil then redis.call('DEL', key) end
  if not epoch then
    epoch = args[1]
    redis.call('HSET', key, EPOCH, epoch)
  end
  for i = 3, #args, 2 do
    local known, here = parse(args[i + 1]), parse(redis.call('HGET', key, args[i]) or '')
    if known and (not here or here[1] < known[1]) then redis.call('HSET', key, args[i], args[i + 1]) end
  end
  redis.call('PEXPIRE', key, args[2])
  return epoch
end

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
  redis.call('SET', keys[1], args[2], 'PX', 3600000)
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
