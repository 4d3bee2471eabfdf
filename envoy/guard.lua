-- Who may run on this endpoint, who waits in line, and who is sent away. Runs in the guard's Envoy, once for each
-- request, before it is forwarded. The lines above this one give the numbers; gpuxds generates them from the policy.
--
-- A request counts for as long as Envoy holds its stream: `held` refers to streams weakly, so one that ended, however
-- it ended, is gone from it after a collection of garbage. That takes 0.05 ms, and is done only when room seems to
-- be short. A request that waits sleeps in a call to the listener `pause`, which answers after the time it is told;
-- the first in line looks every 5 ms, the n-th behind it every 20n ms, so that 200 in line cost about 600 looks a second.

local held = setmetatable({}, {__mode = "v"})
local running, count = {}, 0
local line = {}
local serial = 0

local FIRST_LOOK_MS, NEXT_LOOK_MS, SLOWEST_LOOK_MS = 5, 20, 1000

local function sweep()
  collectgarbage()
  for id in pairs(running) do
    if held[id] == nil then
      running[id] = nil
      count = count - 1
    end
  end
  for place = #line, 1, -1 do
    if held[line[place].id] == nil then
      table.remove(line, place)
    end
  end
end

-- Requests in line that go before this one; a request that is not in line stands behind those of its rank.
local function ahead(request)
  local before = 0
  for place, other in ipairs(line) do
    if other == request then
      return place - 1
    end
    if other.rank >= request.rank then
      before = place
    end
  end
  return before
end

local function fits(request)
  return count + ahead(request) < CAPACITY - KEPT_FREE[request.level]
end

local function may_run(request)
  if fits(request) then
    return true
  end
  sweep()
  return fits(request)
end

-- The line is full: whoever is last makes room when the newcomer outranks it.
local function join(request)
  if #line >= MAX_WAITING then
    local last = line[#line]
    if last == nil or last.rank >= request.rank then
      return false
    end
    last.outranked = true
    table.remove(line)
  end
  table.insert(line, ahead(request) + 1, request)
  return true
end

local function leave(request)
  for place, other in ipairs(line) do
    if other == request then
      table.remove(line, place)
      return
    end
  end
end

local function refuse(handle, how, why)
  handle:respond({
    [":status"] = "429",
    ["content-type"] = "application/json",
    ["retry-after"] = RETRY_AFTER_S,
    [REFUSED_HEADER] = how,
  }, '{"error": {"message": "' .. why .. '", "type": "overloaded_error", "param": null, "code": "at_capacity"}}')
end

local function sleep(handle, duration_ms)
  handle:httpCall("pause", {
    [":method"] = "GET",
    [":path"] = "/",
    [":authority"] = "pause",
    ["x-envoy-fault-delay-request"] = string.format("%d", duration_ms),
  }, nil, duration_ms + 1000)
end

-- Whether the request came to its turn in time; answers it when not.
local function wait(handle, request)
  if not join(request) then
    refuse(handle, "full", "every server is busy and the line is full; try again later")
    return false
  end
  local until_ms = handle:timestamp() + TIMEOUT_MS
  repeat
    local left_ms = until_ms - handle:timestamp()
    if left_ms <= 0 or request.outranked then
      leave(request)
      refuse(handle, "full", "every server was busy for as long as a request waits; try again later")
      return false
    end
    local pause_ms = math.max(FIRST_LOOK_MS, NEXT_LOOK_MS * ahead(request))
    sleep(handle, math.max(1, math.min(pause_ms, SLOWEST_LOOK_MS, left_ms)))
  until not request.outranked and may_run(request)
  leave(request)
  return true
end

local function level_of(headers)
  for _, rule in ipairs(RULES) do
    local level = rule.levels[headers:get(rule.header) or ""]
    if level then
      return level
    end
  end
  return DEFAULT_LEVEL
end

function envoy_on_request(handle)
  local headers = handle:headers()
  local attempt = tonumber(headers:get("x-envoy-attempt-count") or 1) or 1
  local level = level_of(headers)
  serial = serial + 1
  local request = {id = serial, level = level, rank = math.min(#KEPT_FREE, attempt > 1 and level + 1 or level)}
  held[request.id] = handle
  if not may_run(request) then
    if attempt < PATIENT_ATTEMPT then
      return refuse(handle, "elsewhere", "this server is busy")
    end
    if not wait(handle, request) then
      return
    end
  end
  running[request.id] = true
  count = count + 1
end
