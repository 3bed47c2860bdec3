-- Rates. The same arithmetic as gcra.rs and cell.rs, to the last integer while a limit stays the same: there is the
-- explanation of each step.
--
-- A rate is kept as a string of doubles: what has been taken and not yet restored, in nanoseconds; when that was so, in
-- microseconds; the number of the last take; the nanoseconds in which one is restored; then the last span between takes
-- that may yet be given back (the take that it begins with, how many are open in it, its lowest level), and behind that
-- the spans before it, the oldest first, which a take need not read.

local MOST_OWED = 100 * 24 * 3600 * 1000000000
local SLACK = 1000000
local MOST_SPANS = 64
local FEWER_SPANS = 32
local HEAD = '<ddddddd'
local HEAD_BYTES = 56
local SPAN = '<ddd'
local SPAN_BYTES = 24

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
  redis.call('SET', key, head .. level.spans, 'PX', integer(math.ceil(level.nanos / 1000000) + GRACE))
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
