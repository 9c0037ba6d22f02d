-- Sends every message to the topic of BENCH_OUT and waits for the acknowledgement.
local tide = require "tide"
local total = tonumber(os.getenv("BENCH_RECORDS"))
local out = os.getenv("BENCH_OUT")
local count = 0
local first

return function(message)
  first = first or tide.now()
  tide.kafka.send { topic = out, key = message.key, value = message.value }
  count = count + 1
  if count == total then print(("bench: %d %d %d"):format(count, first, tide.now())) end
end
