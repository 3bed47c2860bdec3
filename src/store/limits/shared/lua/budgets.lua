-- Budgets. Of each a gateway tells what it has in all: what others have is added to it here.

-- What an integer of a reply holds, whatever was read.
local MOST = 9000000000000000000
-- How many arguments a report of a budget has.
local REPORT = 10
-- What is said of a budget that is not the one of which a gateway has heard.
local LOST = 2
local EPOCH = 'epoch'

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
  local entry = { budget.number, budget.used, budget.reserved, budget.period, integer(ends) }
  redis.call('HSET', key, ledger, table.concat(entry, ' '))
  for _, field in ipairs(budget.over) do redis.call('HDEL', key, field) end
  redis.call('PEXPIRE', key, integer(budget.kept_for))
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
    for _, number in ipairs(numbers) do table.insert(reply, integer(number)) end
    table.insert(reply, budget.epoch)
    table.insert(reply, integer(#budget.others / 2))
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
