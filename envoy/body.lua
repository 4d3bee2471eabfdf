-- Reads the body of a request once, for those that want to know something of it; they stand below this text.
--
-- Bodies are searched and not parsed: a key stands between quotes that are not escaped, which text inside a string never
-- has. What a request costs here is mostly Envoy's: a copy of the body, and each look at the headers. So a body that
-- begins as JSON in UTF-8 is taken at its first bytes, long ones are copied only at their ends where that is enough, and
-- headers are touched only when there is something to say. Waiting for the body ends the life of a handle on the
-- headers, so they are asked for afterwards.
--
-- `settings` is written above this text by gpuxds; each part says what it reads of it.

local byte, find, match, sub, gsub, char = string.byte, string.find, string.match, string.sub, string.gsub, string.char
local ceil, floor, max, min = math.ceil, math.floor, math.max, math.min

local EDGE = 2048  -- bytes searched at either end of a body that is too long to be searched as a whole
local BRACE = byte("{")

local estimate, stream  -- set by the parts

-- Keys may be written with escapes. Those of quotes and braces stay: as \u0022 they are not what they stand for.
local function unescaped(text)
  if not find(text, "\\u00", 1, true) then return text end
  return (gsub(text, "\\u00([3-7]%x)", function(hex) return char(tonumber(hex, 16)) end))
end

function envoy_on_request(handle)
  local tokens = estimate and estimate.told(handle)
  local body = (stream or not tokens) and handle:body()
  local length, first, last = 0, nil, nil
  if body then
    length = body:length()
    if stream or length <= estimate.searched_bytes then
      first = body:getBytes(0, length)
    else
      first, last = body:getBytes(0, EDGE), body:getBytes(length - EDGE, EDGE)
    end
  end
  if estimate and not estimate.say(handle, tokens, length, first, last) then return end
  if stream and first then stream.say(handle, first) end
end
