-- Reads every value, and tells the times of the first and of the last message: the rate is reckoned from those.
local total = tonumber(os.getenv("BENCH_RECORDS"))
local count = 0
local first

return function(message, ctx)
  local _ = message.value
  count = count + 1
  if count == 1 then
    first = ctx.startTime
  elseif count == total then
    print(("bench: %d messages in %d ms"):format(count, ctx.startTime - first))
  end
end
