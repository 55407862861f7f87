"""The Lua that makes Redis a broker that does not lose: each script is one step that happens or does not.

Keys and payloads are kombu's (``unacked``, ``unacked_index``, JSON), so stock producers and stock workers share the
same Redis; ours are added beside them under ``greenworker.``. Times come from the Redis server: no clock skew. Each
works in a Redis that is full (see HEARTBEAT).
"""

FETCH = """
-- Pop and book in one step. kombu pops with BRPOP and books afterwards: a worker killed in between loses the message.
-- What is acknowledged travels along: the slots that are filled here are those of the tasks that ended.
-- No payload is read here: what Lua's JSON cannot decode (half an emoji, deep nesting) is a task all the same.
-- So each delivery has a tag of the worker's own, and goes back to the queue that it came from, whatever exchange
-- had brought it there.
-- Who fetches lives: so whatever is booked under a worker, the others know that worker.
-- KEYS: unacked, unacked_index, held, workers, then the lists, highest priority first
-- ARGV: how many at most, lists per priority step, stem of the tags, number of the first tag, worker, for each list the
--       name of its queue in JSON, then the tags of what is done
local lists = #KEYS - 4
for first = 6 + lists, #ARGV, 1000 do
  local last = math.min(first + 999, #ARGV)
  redis.call('HDEL', KEYS[1], unpack(ARGV, first, last))
  redis.call('ZREM', KEYS[2], unpack(ARGV, first, last))
  redis.call('HDEL', KEYS[3], unpack(ARGV, first, last))
end
local now = redis.call('TIME')
local seconds = tonumber(now[1]) + tonumber(now[2]) / 1000000
local wanted, width, number = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[4])
local out, taken = {}, 0
for first = 1, lists, width do
  local more = true
  while more and taken < wanted do
    more = false
    for k = first, math.min(first + width - 1, lists) do
      if taken >= wanted then break end
      local payload = redis.call('RPOP', KEYS[4 + k])
      if payload then
        more = true
        taken = taken + 1
        local tag = ARGV[3] .. number
        -- taken already if a client library sends the same script twice
        while redis.call('HSETNX', KEYS[3], tag, #payload .. ':' .. KEYS[4 + k]) == 0 do
          number = number + 1
          tag = ARGV[3] .. number
        end
        number = number + 1
        redis.call('HSET', KEYS[1], tag, '[' .. payload .. ', "", ' .. ARGV[5 + k] .. ']')
        redis.call('ZADD', KEYS[2], seconds, tag)
        out[#out + 1] = k - 1
        out[#out + 1] = tag
        out[#out + 1] = payload
      end
    end
  end
end
if taken > 0 then redis.call('ZADD', KEYS[4], seconds, ARGV[5]) end
return out
"""

ACK = """
-- KEYS: unacked, unacked_index, held   ARGV: tags
for first = 1, #ARGV, 1000 do
  local last = math.min(first + 999, #ARGV)
  redis.call('HDEL', KEYS[1], unpack(ARGV, first, last))
  redis.call('ZREM', KEYS[2], unpack(ARGV, first, last))
  redis.call('HDEL', KEYS[3], unpack(ARGV, first, last))
end
return #ARGV
"""

REQUEUE = """
-- Put messages back where they came from, in the order given; each only if this very delivery is still booked:
-- the answer of an earlier attempt may be lost, and the message another delivery's by now.
-- One that cannot go (its list is somebody's key of another type) is booked as before, and holds up no other one.
-- Returns how many went, and the error of the last that did not.
-- KEYS: unacked, unacked_index, held   ARGV: side ('head' or 'tail'), then tag, list, payload …
local push = ARGV[1] == 'head' and 'RPUSH' or 'LPUSH'
local count, failed = 0, ''
for i = 2, #ARGV, 3 do
  local tag = ARGV[i]
  local origin, since = redis.call('HGET', KEYS[3], tag), redis.call('ZSCORE', KEYS[2], tag)
  if redis.call('HDEL', KEYS[3], tag) == 1 then
    local booked = redis.call('HGET', KEYS[1], tag)
    redis.call('ZREM', KEYS[2], tag)
    if redis.call('HDEL', KEYS[1], tag) == 1 then
      local pushed = redis.pcall(push, ARGV[i + 1], ARGV[i + 2])
      if type(pushed) == 'table' then
        failed = pushed.err
        redis.call('HSET', KEYS[1], tag, booked)
        redis.call('ZADD', KEYS[2], since or 0, tag)
        redis.call('HSET', KEYS[3], tag, origin)
      else
        count = count + 1
      end
    end
  end
end
return {count, failed}
"""

MARK = """
-- A held message is another one from now on, for whoever gets it after this worker.
-- KEYS: unacked, held   ARGV: tag, payload
local origin, booked = redis.call('HGET', KEYS[2], ARGV[1]), redis.call('HGET', KEYS[1], ARGV[1])
if not origin or not booked then return 0 end
local length, list = string.match(origin, '^(%d+):(.*)$')
redis.call('HSET', KEYS[1], ARGV[1], '[' .. ARGV[2] .. string.sub(booked, tonumber(length) + 2))
redis.call('HSET', KEYS[2], ARGV[1], #ARGV[2] .. ':' .. list)
return 1
"""

HEARTBEAT = """
-- This worker lives, and with it what it holds: the visibility time-out counts from now.
-- A full Redis refuses what could need memory, unless the script has written already: hence the ZREM of nobody,
-- and it is the order in the other scripts too. They free what they take, and are the only way to empty a full Redis.
-- KEYS: workers, held, unacked_index   ARGV: worker, 1 to renew
redis.call('ZREM', KEYS[1], '')
local now = redis.call('TIME')
local seconds = tonumber(now[1]) + tonumber(now[2]) / 1000000
redis.call('ZADD', KEYS[1], seconds, ARGV[1])
if ARGV[2] == '1' then
  local tags = redis.call('HKEYS', KEYS[2])
  for _, tag in ipairs(tags) do
    redis.call('ZADD', KEYS[3], 'XX', seconds, tag)
  end
  return #tags
end
return -1
"""

EXPIRED_WORKERS = """
-- Workers that have not beaten for so long.   KEYS: workers   ARGV: seconds
local now = redis.call('TIME')
return redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', tonumber(now[1]) - tonumber(ARGV[1]))
"""

REMOVE_WORKER = """
-- Forget a worker that holds nothing and still does not beat. Somebody's key of another type holds nothing of a worker.
-- KEYS: workers, held   ARGV: worker, seconds
local now = redis.call('TIME')
local seen = redis.call('ZSCORE', KEYS[1], ARGV[1])
local found = redis.pcall('HGET', KEYS[2], '')
local foreign = type(found) == 'table' and string.find(found.err, 'WRONGTYPE', 1, true)
local empty = foreign or redis.call('EXISTS', KEYS[2]) == 0
if seen and tonumber(seen) <= tonumber(now[1]) - tonumber(ARGV[2]) and empty then
  return redis.call('ZREM', KEYS[1], ARGV[1])
end
return 0
"""
