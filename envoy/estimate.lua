-- Estimates the tokens of a request from its body and says them in a header, by which Envoy routes and limits.
--
-- The body's size stands for the prompt, and a plain search finds the length of the answer that it asks for, and how
-- many. A prompt that speaks of max_tokens is not mistaken for the key. Of several keys the largest counts. A search
-- holds up every request of its worker, so none takes more than some steps per byte, and a body that would need more
-- counts as the most there is.
--
-- Reads `settings.estimate`: tokens_per_byte, default_max_tokens, searched_bytes, silent_up_to and perhaps trust_header.

do
  local spec = settings.estimate
  local HEADER = "x-gpuxds-estimated-tokens"
  local MOST = 1000000000  -- Envoy takes larger counts for none
  local LENGTHS = {max_tokens = true, max_completion_tokens = true, max_output_tokens = true, max_new_tokens = true}
  local COUNTS = {n = true, best_of = true}
  local LONGEST_KEY = 21
  local LONGEST_QUOTED = 64
  local UNREADABLE = '{"error": {"message": "this body cannot be read; send it in UTF-8", "type": "invalid_request_error", "param": null, "code": "unsupported_content_encoding"}}'

  local function decoded(hex)
    return string.char(tonumber(hex, 16))
  end

  -- The number that a string begins with. Parsers are lax: white space, `_` and escapes do not hide it. Of bytes above
  -- 127 those of white space are left out; with any other it is no number.
  local function quoted(text, at)
    local value = sub(text, at, at + LONGEST_QUOTED - 1)
    local ending = find(value, '"', 1, true)
    value = gsub(ending and sub(value, 1, ending - 1) or value, "\\u00([2-7]%x)", decoded)
    value = gsub(gsub(value, "\\u[0-3fF]%x%x%x", ""), "\\[bfnrt]", "")
    value = gsub(gsub(value, "\\u?%x*$", ""), "[%c%s_\128-\194\225-\227\239]", "")
    local digits, rest = match(value, "^([%d.eE+-]*)(.?)")
    if not ending and rest == "" then return MOST end
    return tonumber(digits) or 0
  end

  -- The number that is the value of a key which ends before `at`; 0 when there is none.
  local function number(text, at)
    local _, before = find(text, "^%s*:%s*", at)
    if not before then return 0 end
    if byte(text, before + 1) == QUOTE then return quoted(text, before + 2) end
    local value = match(text, "^[%d_.eE+-]+", before + 1)
    return value and tonumber((gsub(value, "_", ""))) or 0
  end

  -- The largest number under any of these keys, which all end in `ending`.
  local function largest(text, ending, keys)
    local most, places = 0, 0
    local first, last = find(text, ending, 1, true)
    while first do
      places = places + 1
      if places > MOST_PLACES then return MOST end
      if keys[match(sub(text, max(1, last - LONGEST_KEY - 1), last - 1), '"([a-z_]+)$')] then
        most = max(most, number(text, last + 1))
      end
      first, last = find(text, ending, last + 1, true)
    end
    return most
  end

  -- How long an answer a piece of JSON asks for, in tokens, 0 when it does not say; and how many of them.
  local function asked_for(text)
    text = unescaped(text)
    if not text then return MOST, 1 end
    return largest(text, '_tokens"', LENGTHS), max(1, largest(text, '"n"', COUNTS), largest(text, '_of"', COUNTS))
  end

  local function estimated(length, first, last)
    local answer, times = asked_for(first)
    if last then
      local other, others = asked_for(last)
      answer, times = max(answer, other), max(times, others)
    end
    if answer <= 0 then answer = spec.default_max_tokens end
    return max(1, min(MOST, ceil(length * spec.tokens_per_byte + answer * times)))
  end

  -- Whether a body can be searched: JSON is UTF-8, and in UTF-16 or UTF-32 every other byte of its first ones is zero.
  local function readable(text)
    local one, two = byte(text, 1, 2)
    return one == BRACE and two ~= 0 or not find(sub(text, 1, 4), "[%z\254\255]")
  end

  estimate = {searched_bytes = spec.searched_bytes}

  -- The number a trusted header says; nil when there is none that can be used.
  function estimate.told(handle)
    local said = spec.trust_header and handle:headers():get(spec.trust_header)
    local tokens = said and match(said, "^%d+$") and tonumber(said)
    return tokens and tokens >= 1 and min(MOST, tokens)
  end

  -- Says what was told or what is estimated, of nothing one; whether the request may go on.
  function estimate.say(handle, tokens, length, first, last)
    if not tokens and first and not readable(first) then
      handle:respond({[":status"] = "415", ["content-type"] = "application/json"}, UNREADABLE)
      return false
    end
    tokens = tokens or first and estimated(length, first, last) or 1
    if tokens > spec.silent_up_to then
      handle:headers():replace(HEADER, string.format("%d", tokens))
    end
    return true
  end
end
