-- Finds out from its body whether a request is streamed. One that is not may be hedged, which a header says, by which
-- Envoy routes, and may have a total time, which Envoy is given here.
--
-- "stream" with both its marks is a whole string, and what follows it decides: anything but `false` and `null` may be
-- taken for true. Finding it in a nested object says "streamed" at worst, which cuts nothing. What is no JSON object in
-- UTF-8 (compressed, a form) cannot be known, and is spared like a stream; so is what would take long to search.
--
-- Reads `settings.stream`: hedging, request_s, buffer, longest_s and perhaps header.

do
  local spec = settings.stream
  local HEADER = "x-gpuxds-stream"

  -- Whether it is certain that a request with this body is not streamed.
  local function whole(text)
    if byte(text) ~= BRACE and not find(text, "^%s*{") or find(text, "\0", 1, true) then return false end
    text = unescaped(text)
    if not text then return false end
    local at = 1
    for _ = 1, MOST_PLACES do
      local _, last = find(text, '"stream"', at, true)
      if last == nil then return true end
      if not find(text, "^%s*:%s*[fn][au]l[sl]", last + 1) and find(text, "^%s*:", last + 1) then return false end
      at = last + 1
    end
    return false
  end

  -- How long a request that is not streamed may take in total, in seconds; 0 without a limit.
  local function stated(headers)
    local seconds = spec.header and tonumber(headers:get(spec.header) or "")
    return seconds and seconds > 0 and seconds or spec.request_s
  end

  stream = {}

  function stream.say(handle, text)
    if not whole(text) then return end
    local headers = handle:headers()
    if spec.hedging then headers:replace(HEADER, "false") end
    local seconds = stated(headers)
    if seconds > 0 then
      local total_ms = floor(min(seconds, spec.longest_s) * spec.buffer * 1000 + 0.5)
      headers:replace("x-envoy-upstream-rq-timeout-ms", string.format("%d", max(1, total_ms)))
    end
  end
end
