-- SHA-256 (FIPS 180-4), for keys of clients: LuaJIT has no hash of its own, and a key must not be told on as it is.
-- A key of up to 55 bytes takes 2 to 3 microseconds.

local band, bnot, bxor = bit.band, bit.bnot, bit.bxor
local ror, rshift, tobit = bit.ror, bit.rshift, bit.tobit

-- The first 32 bits of the fractions of square roots (start values) and cube roots (round constants) of primes.
local START, ROUND = {}, {}
do
  local function fraction(root)
    return tobit(math.floor((root - math.floor(root)) * 4294967296))
  end
  local candidate = 2
  while #ROUND < 64 do
    local prime = true
    for divisor = 2, math.floor(math.sqrt(candidate)) do
      prime = prime and candidate % divisor ~= 0
    end
    if prime then
      ROUND[#ROUND + 1] = fraction(candidate ^ (1 / 3))
      if #START < 8 then
        START[#START + 1] = fraction(math.sqrt(candidate))
      end
    end
    candidate = candidate + 1
  end
end

local function padded(text)
  local bits = #text * 8
  local zeros = (55 - #text) % 64
  local size = {}
  for place = 7, 0, -1 do
    size[#size + 1] = string.char(math.floor(bits / 256 ^ place) % 256)
  end
  return text .. "\128" .. string.rep("\0", zeros) .. table.concat(size)
end

local function block(state, text, from)
  local w = {}
  for i = 1, 16 do
    local a, b, c, d = string.byte(text, from + 4 * i - 4, from + 4 * i - 1)
    w[i] = tobit(a * 16777216 + b * 65536 + c * 256 + d)
  end
  for i = 17, 64 do
    local x, y = w[i - 15], w[i - 2]
    local s0 = bxor(ror(x, 7), ror(x, 18), rshift(x, 3))
    local s1 = bxor(ror(y, 17), ror(y, 19), rshift(y, 10))
    w[i] = tobit(w[i - 16] + s0 + w[i - 7] + s1)
  end
  local a, b, c, d, e, f, g, h = unpack(state)
  for i = 1, 64 do
    local s1 = bxor(ror(e, 6), ror(e, 11), ror(e, 25))
    local one = tobit(h + s1 + bxor(band(e, f), band(bnot(e), g)) + ROUND[i] + w[i])
    local s0 = bxor(ror(a, 2), ror(a, 13), ror(a, 22))
    local two = tobit(s0 + bxor(band(a, b), band(a, c), band(b, c)))
    a, b, c, d, e, f, g, h = tobit(one + two), a, b, c, tobit(d + one), e, f, g
  end
  local sums = {a, b, c, d, e, f, g, h}
  for i = 1, 8 do
    state[i] = tobit(state[i] + sums[i])
  end
end

-- The hash of a text, in 64 hexadecimal digits.
local function sha256(text)
  local state = {unpack(START)}
  local all = padded(text)
  for from = 1, #all, 64 do
    block(state, all, from)
  end
  for i = 1, 8 do
    state[i] = bit.tohex(state[i])
  end
  return table.concat(state)
end

