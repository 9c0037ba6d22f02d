-- Waits for 0 to 5 ms, and says how long all messages took, from the first one's start to the last one's end.
local tide = require "tide"
local records = tonumber(os.getenv("BENCH_RECORDS"))
local done, started = 0, nil
math.randomseed(1)

return function()
  started = started or tide.now()
  tide.sleep(math.random() * 5)
  done = done + 1
  if done == records then print(string.format("bench: %d messages in %d ms", done, tide.now() - started)) end
end
