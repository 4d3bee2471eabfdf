-- Says in a header whose request this is, for limits and access logs to read, and puts the answers to requests that
-- were limited into words.
--
-- Of an API key only its hash is ever said, or the name that the policy has for it: a key in a header, a log or a
-- bucket's name would be a key told on. Envoy's limits answer as text, without `retry-after`, and name the limits of
-- requests and of tokens alike, so their answers are completed here.
--
-- `settings` is written above this text by gpuxds: header or key_header with names (hash -> name), requests and tokens
-- (name -> rate and burst, one of both without a name, and the parts in which its buckets count); `sha256` stands above
-- it where there are keys.

local HEADER = "x-gpuxds-tenant"
local LIMITED = "x-gpuxds-limited"
local NOBODY = "anonymous"
local SHOWN = 16  -- digits of a hash that name a key without a name

local function named(key)
  local hash = sha256(key)
  return settings.names[hash] or "key-" .. string.sub(hash, 1, SHOWN)
end

local function tenant(headers)
  if settings.header then
    local said = headers:get(settings.header)
    return said ~= "" and said or NOBODY
  end
  local said = headers:get(settings.key_header)
  local scheme, rest = string.match(said or "", "^%s*(%a+)%s+(.*)")
  local key = scheme and string.lower(scheme) == "bearer" and rest or said  -- HTTP's schemes have no case
  key = key and string.match(key, "^.*%S")
  return key and named(key) or NOBODY
end

function envoy_on_request(handle)
  local headers = handle:headers()
  headers:replace(HEADER, tenant(headers))
end

local function limit_of(kind, name)
  local limits = settings[kind]
  return limits.named[name] or limits.default
end

-- Headers that say which of the two limits they are about. Envoy's filters add theirs from the last to the first, so
-- the values of requests come after those of tokens. Gives both numbers of each kind, in parts.
local function told(headers, kinds)
  local values = headers:getNumValues("x-ratelimit-limit")
  local found = {}
  for place, kind in ipairs(kinds) do
    local index = values - place
    local limit = index >= 0 and headers:getAtIndex("x-ratelimit-limit", index)
    if limit and tonumber(limit) < settings.unlimited then
      found[kind] = {tonumber(limit), tonumber(headers:getAtIndex("x-ratelimit-remaining", index))}
    end
  end
  headers:remove("x-ratelimit-limit")
  headers:remove("x-ratelimit-remaining")
  headers:remove("x-ratelimit-reset")
  for kind, pair in pairs(found) do
    local parts = settings[kind].parts
    headers:replace("x-ratelimit-limit-" .. kind, string.format("%d", pair[1] / parts))
    headers:replace("x-ratelimit-remaining-" .. kind, string.format("%d", math.floor(pair[2] / parts)))
  end
  return found
end

local function error_body(message, kind, code)
  return string.format('{"error": {"message": "%s", "type": "%s", "param": null, "code": "%s"}}', message, kind, code)
end

-- Whole seconds until a bucket has filled by so much; the dust of floating point is no second of its own.
local function seconds(amount, remaining, kind, limit)
  local parts = settings[kind].parts
  return math.ceil((amount * parts - remaining) / (limit.rate * parts) - 1e-6)
end

local function refuse(handle, headers, kind, cost, name, remaining)
  local limit = limit_of(kind, name)
  local shown = string.gsub(name, "[^%w%-_.@:/]", "?")
  local body
  if cost > limit.burst then
    headers:replace(":status", "413")
    body = error_body(string.format("this request is estimated at %d tokens; tenant %s may use %d at once",
      cost, shown, limit.burst), "invalid_request_error", "request_exceeds_limit")
  else
    local wait_s = math.max(1, seconds(cost, remaining, kind, limit))
    headers:replace("retry-after", string.format("%d", wait_s))
    headers:replace("x-ratelimit-reset-" .. kind, string.format("%ds", seconds(limit.burst, remaining, kind, limit)))
    body = error_body(string.format("tenant %s may use %s %s per second and %d at once; try again in %d s",
      shown, limit.rate, kind, limit.burst, wait_s), kind, "rate_limit_exceeded")
  end
  headers:replace("content-type", "application/json")
  handle:body(true):setBytes(body)
end

function envoy_on_response(handle)
  local headers = handle:headers()
  local limited = headers:get(LIMITED)
  local found = told(headers, settings.kinds)
  if limited then
    headers:remove(LIMITED)
    local kind, cost, name = string.match(limited, "^(%a+) (%d*) ?(.*)$")
    if found[kind] and headers:get(":status") == "429" then
      refuse(handle, headers, kind, kind == "tokens" and tonumber(cost) or 1, name, found[kind][2])
    end
  end
end
