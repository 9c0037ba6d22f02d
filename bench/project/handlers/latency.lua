-- How long ago each message was sent, in steps of 10 µs up to a second; the first ones have no time and do not count.
local now = require "bench".now
local total = tonumber(os.getenv("BENCH_RECORDS"))
local tide = require "tide"
local unpack = string.unpack
local STEP, STEPS = 10000, 100000
local counts = {}
for i = 0, STEPS do counts[i] = 0 end
local count, measured, first = 0, 0, nil

local function at(share)
  local passed = 0
  for i = 0, STEPS do
    passed = passed + counts[i]
    if passed >= measured * share then return i * STEP // 1000 end
  end
end

return function(message)
  first = first or tide.now()
  local sent = unpack("<i8", message.value)
  if sent > 0 then
    local step = (now() - sent) // STEP
    if step > STEPS then step = STEPS end
    counts[step] = counts[step] + 1
    measured = measured + 1
  end
  count = count + 1
  if count == total then
    print(("bench: %d %d %d latency %d %d %d %d"):format(count, first, tide.now(), at(0.5), at(0.99), at(0.999), measured))
  end
end
