-- Commits after every message; BENCH_WAIT says whether the handler waits for the broker's answer.
local tide = require "tide"
local total = tonumber(os.getenv("BENCH_RECORDS"))
local options = os.getenv("BENCH_WAIT") == "no" and { wait = false } or nil
local count = 0
local first

return function(message, ctx)
  first = first or tide.now()
  ctx.commitOffsets(message.offset + 1, options)
  count = count + 1
  if count == total then print(("bench: %d %d %d"):format(count, first, tide.now())) end
end
