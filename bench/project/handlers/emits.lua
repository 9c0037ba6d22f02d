-- Emits every message to the topic of BENCH_OUT. The figure is reckoned from the times of the first and the last message.
local now = require "tide".now
local total = tonumber(os.getenv("BENCH_RECORDS"))
local out = os.getenv("BENCH_OUT")
local count = 0
local first

return function(message, ctx)
  ctx.emit { topic = out, key = message.key, value = message.value }
  count = count + 1
  if count == 1 then
    first = now()
  elseif count == total then
    print(("bench: %d %d %d"):format(count, first, now()))
  end
end
