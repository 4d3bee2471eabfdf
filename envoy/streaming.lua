-- Finds out from its body whether a request is streamed. One that is not may be hedged, which a header says, by which
-- Envoy routes, and may have a total time, which Envoy is given here.
--
-- The body is not parsed. A quotation mark inside a JSON string is always escaped, so "stream" with both its marks is a
-- whole string, and what follows it decides: anything but `false` and `null` may be taken for true. Finding it in a
-- nested object says "streamed" at worst, which cuts nothing. What is no JSON object in UTF-8 (compressed, a form)
-- cannot be known, and is spared like a stream. The first byte tells: asking for headers costs more than searching 2 KB.
--
-- `settings` is written above this text by gpuxds: hedging, request_s, buffer, longest_s and perhaps header.

local HEADER = "x-gpuxds-stream"
local BRACE = string.byte("{")
local byte, find, gsub, floor, max, min = string.byte, string.find, string.gsub, math.floor, math.max, math.min

local function unescaped(hex)
  return string.char(tonumber(hex, 16))
end

-- Whether it is certain that a request with this body is not streamed.
local function whole(text)
  if byte(text) ~= BRACE and not find(text, "^%s*{") or find(text, "%z") then return false end
  if find(text, "\\u00", 1, true) then
    text = gsub(text, "\\u00([3-7]%x)", unescaped)
  end
  local at = 1
  while true do
    local _, last = find(text, '"stream"', at, true)
    if last == nil then return true end
    if not find(text, "^%s*:%s*[fn][au]l[sl]", last + 1) and find(text, "^%s*:", last + 1) then return false end
    at = last + 1
  end
end

-- How long a request that is not streamed may take in total, in seconds; 0 without a limit.
local function stated(headers)
  local seconds = settings.header and tonumber(headers:get(settings.header) or "")
  return seconds and seconds > 0 and seconds or settings.request_s
end

-- Waiting for the body ends the life of a handle on the headers, so they are asked for afterwards.
function envoy_on_request(handle)
  local body = handle:body()
  local certain = body and whole(body:getBytes(0, body:length()))
  local headers = handle:headers()
  if not certain then
    headers:remove(HEADER)  -- what a client says under this name does not count
    return
  end
  if settings.hedging then headers:replace(HEADER, "false") end
  local seconds = stated(headers)
  if seconds > 0 then
    local total_ms = floor(min(seconds, settings.longest_s) * settings.buffer * 1000 + 0.5)
    headers:replace("x-envoy-upstream-rq-timeout-ms", string.format("%d", max(1, total_ms)))
  end
end
