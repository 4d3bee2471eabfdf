-- Estimates the tokens of a request from its body and says them in a header, by which Envoy routes and limits.
--
-- The body's size stands for the prompt, and a plain search finds the length of the answer that it asks for. A prompt
-- that speaks of max_tokens is not mistaken for the key. Of several keys the largest counts. What is searched is
-- bounded, since a search holds up every request of its worker.
--
-- Reads `settings.estimate`: tokens_per_byte, default_max_tokens, searched_bytes, silent_up_to and perhaps trust_header.

do
  local spec = settings.estimate
  local HEADER = "x-gpuxds-estimated-tokens"
  local MOST = 1000000000  -- Envoy takes larger counts for none
  local KEYS = {max_tokens = true, max_completion_tokens = true, max_output_tokens = true, max_new_tokens = true}
  local LONGEST_KEY = 21
  local UNREADABLE = '{"error": {"message": "this body cannot be read; send it in UTF-8", "type": "invalid_request_error", "param": null, "code": "unsupported_content_encoding"}}'

  -- The largest answer that a piece of JSON asks for, in tokens; 0 when it asks for none.
  local function asked_for(text)
    text = unescaped(text)
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

  local function estimated(length, first, last)
    local answer = asked_for(first)
    if last then answer = max(answer, asked_for(last)) end
    if answer <= 0 then answer = spec.default_max_tokens end
    return max(1, min(MOST, ceil(length * spec.tokens_per_byte + answer)))
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
