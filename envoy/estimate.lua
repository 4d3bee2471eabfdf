-- Estimates the tokens of a request from its body and says them in a header, by which Envoy routes and limits.
--
-- The body is not parsed: its size stands for the prompt, and a plain search finds the length of the answer that it
-- asks for. A key stands between quotes that are not escaped, which text inside a string never has, so a prompt that
-- speaks of max_tokens is not mistaken for the key. Of several keys the largest counts. What is searched is bounded,
-- since a search holds up every request of its worker.
--
-- `settings` is written above this text by gpuxds: tokens_per_byte, default_max_tokens, searched_bytes, silent_up_to and
-- perhaps trust_header.

local HEADER = "x-gpuxds-estimated-tokens"
local MOST = 1000000000  -- Envoy takes larger counts for none
local EDGE = 2048  -- bytes searched at either end of a body that is too long to be searched as a whole
local KEYS = {max_tokens = true, max_completion_tokens = true, max_output_tokens = true, max_new_tokens = true}
local LONGEST_KEY = 21
local UNREADABLE = '{"error": {"message": "this body cannot be read; send it in UTF-8, plain or with gzip", "type": "invalid_request_error", "param": null, "code": "unsupported_content_encoding"}}'

local find, match, sub, gsub, char = string.find, string.match, string.sub, string.gsub, string.char
local ceil, max, min = math.ceil, math.max, math.min

local function unescaped(hex)
  return char(tonumber(hex, 16))
end

-- The largest answer that a piece of JSON asks for, in tokens; 0 when it asks for none.
local function asked_for(text)
  if find(text, "\\u00", 1, true) then
    text = gsub(text, "\\u00([3-7]%x)", unescaped)  -- a key may be written with escapes; quotes stay escaped
  end
  local most = 0
  local first, last = find(text, '_tokens"', 1, true)
  while first do
    local value = match(text, '^%s*:%s*"?%s*([%d_.eE+-]+)', last + 1)
    value = value and gsub(value, "_", "")  -- engines read "5_000" as the number it looks like
    if value and KEYS[match(sub(text, max(1, last - LONGEST_KEY - 1), last - 1), '"([a-z_]+)$')] then
      most = max(most, tonumber(value) or 0)
    end
    first, last = find(text, '_tokens"', last + 1, true)
  end
  return most
end

local function estimated(body)
  local length = body:length()
  local answer
  if length <= settings.searched_bytes then
    answer = asked_for(body:getBytes(0, length))
  else
    answer = max(asked_for(body:getBytes(0, EDGE)), asked_for(body:getBytes(length - EDGE, EDGE)))
  end
  if answer <= 0 then
    answer = settings.default_max_tokens
  end
  return max(1, min(MOST, ceil(length * settings.tokens_per_byte + answer)))
end

-- Whether a body can be searched: JSON is UTF-8, and in UTF-16 or UTF-32 every other byte of its first ones is zero.
local function readable(body)
  return not find(body:getBytes(0, min(4, body:length())), "[%z\254\255]")
end

-- The number a trusted header says; nil when there is none that can be used.
local function told(handle)
  local said = settings.trust_header and handle:headers():get(settings.trust_header)
  local tokens = said and match(said, "^%d+$") and tonumber(said)
  return tokens and tokens >= 1 and min(MOST, tokens)
end

function envoy_on_request(handle)
  local tokens = told(handle)
  local body = not tokens and handle:body()
  local headers = handle:headers()
  if body then
    local encoding = headers:get("content-encoding")
    encoding = encoding and string.lower(encoding)
    if encoding and encoding ~= "identity" and encoding ~= "" or body and not readable(body) then
      handle:respond({[":status"] = "415", ["content-type"] = "application/json"}, UNREADABLE)
      return
    end
    tokens = estimated(body)
  end
  tokens = tokens or 1
  if tokens > settings.silent_up_to then
    headers:replace(HEADER, string.format("%d", tokens))
  end
end
