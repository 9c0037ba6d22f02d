-- Waits for 1 ms, or for 0 to 5 ms by turns of chance where BENCH_WAIT says so; from the first one's start to the last
-- one's end.
local tide = require "tide"
local total = tonumber(os.getenv("BENCH_RECORDS"))
local by_chance = os.getenv("BENCH_WAIT") == "0-5"
local count = 0
local first
math.randomseed(1)

return function()
  first = first or tide.now()
  tide.sleep(by_chance and math.random() * 5 or 1)
  count = count + 1
  if count == total then print(("bench: %d %d %d"):format(count, first, tide.now())) end
end
