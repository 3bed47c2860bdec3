#!lua name=@LIBRARY@

-- Limits that several gateways count together. One library is made of this file and, behind it, of rates, places, budgets and
-- functions. All numbers are whole and below 2^53, which a double holds exactly.
--
-- Each function takes the time first, in microseconds, or 0 for this server's.

local SLOT_WAIT = 1000000000
-- For how many milliseconds a key outlives what it says: longer than a clock goes back unnoticed.
local GRACE = 10000
local HAS_ROOM = -2
local NEVER = -1

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

-- A time to live is written here, not by Redis: 7.2.0 to 7.2.4 write whole multiples of 10^8 as `1e+8`, and then refuse them.
local function integer(number)
  return string.format('%.0f', number)
end

local function milliseconds(now)
  return math.floor(now / 1000)
end
