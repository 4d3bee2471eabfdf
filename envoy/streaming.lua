-- Finds out from its body whether a request is streamed, says so in a header, by which Envoy routes, and gives the total
-- time of a request that is not streamed to Envoy.
--
-- The body is not parsed. A quotation mark inside a JSON string is always escaped, so "stream" with both its marks is a
-- whole string, and what stands between it and `true` decides. Finding it in a nested object says "streamed" at worst,
-- which cuts nothing. What cannot be read is left unsaid, and spared like a stream.
--
-- `settings` is written above this text by gpuxds: request_s, buffer, longest_s and perhaps header.

local HEADER = "x-gpuxds-stream"
local find, floor, max, min = string.find, math.floor, math.max, math.min

-- True, false, or nil when it cannot be known. Waiting for the body ends the life of a handle on the headers.
local function streamed(handle)
  local headers = handle:headers()
  headers:remove(HEADER)  -- what a client says under this name does not count
  if find(headers:get("accept") or "", "text/event-stream", 1, true) then return true end
  if headers:get("content-encoding") then return nil end
  if not find(headers:get("content-type") or "", "json", 1, true) then return nil end
  local body = handle:body()
  if body == nil then return nil end
  local text = body:getBytes(0, body:length())
  local at = 1
  while true do
    local _, last = find(text, '"stream"', at, true)
    if last == nil then return false end
    if find(text, "^%s*:%s*true", last + 1) then return true end
    at = last + 1
  end
end

-- How long a request that is not streamed may take in total; nil without a limit.
local function total_ms(headers)
  local seconds = settings.header and tonumber(headers:get(settings.header) or "")
  if not (seconds and seconds > 0) then seconds = settings.request_s end
  if seconds <= 0 then return nil end
  return max(1, floor(min(seconds, settings.longest_s) * settings.buffer * 1000 + 0.5))
end

function envoy_on_request(handle)
  local found = streamed(handle)
  if found == nil then return end
  local headers = handle:headers()
  headers:replace(HEADER, tostring(found))
  local limit = not found and total_ms(headers)
  if limit then headers:replace("x-envoy-upstream-rq-timeout-ms", string.format("%d", limit)) end
end
