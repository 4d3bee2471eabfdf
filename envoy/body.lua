-- Reads the body of a request once, for those that want to know something of it; they stand below this text.
--
-- Bodies are searched and not parsed: a key stands between quotes that are not escaped, which text inside a string never
-- has. What a request costs here is mostly Envoy's: a copy of the body, and each look at the headers. So a body that
-- begins as JSON in UTF-8 is taken at its first bytes, long ones are copied only at their ends where that is enough, and
-- headers are touched only when there is something to say. Waiting for the body ends the life of a handle on the
-- headers, so they are asked for afterwards.
--
-- `settings` is written above this text by gpuxds; each part says what it reads of it.

local byte, find, match, sub, gsub = string.byte, string.find, string.match, string.sub, string.gsub
local ceil, floor, max, min = math.ceil, math.floor, math.max, math.min

local EDGE = 2048  -- bytes searched at either end of a body that is too long to be searched as a whole
local MOST_PLACES = 10000  -- at which a key is looked at; more would hold up the worker, and no honest body has them
local LONGEST_UNESCAPED = 65536
local BRACE, QUOTE, BACKSLASH = byte('{"\\', 1, 3)

-- What keys consist of, by its hexadecimal digits.
local LETTERS = {["5f"] = "_", ["5F"] = "_"}
for code = byte("a"), byte("z") do
  LETTERS[string.format("%02x", code)] = string.char(code)
  LETTERS[string.format("%02X", code)] = string.char(code)
end

local estimate, stream  -- set by the parts

-- Whether a letter is written as an escape, and not after a backslash that is escaped itself. Encoders do so with <, `
-- and é, but never with letters.
local function hides_letters(text)
  local at = find(text, "\\u00", 1, true)
  while at do
    if LETTERS[sub(text, at + 4, at + 5)] then
      local first = at
      while byte(text, first - 1) == BACKSLASH do first = first - 1 end
      if (at - first) % 2 == 0 then return true end
    end
    at = find(text, "\\u00", at + 4, true)
  end
  return false
end

-- The text with its letters in place of their escapes; nil when that would take long. No honest body has such escapes.
local function unescaped(text)
  if not hides_letters(text) then return text end
  return #text <= LONGEST_UNESCAPED and gsub(text, "\\u00(%x%x)", LETTERS) or nil
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
