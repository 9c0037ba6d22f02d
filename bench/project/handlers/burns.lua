-- 10 µs of pure Lua in every message, on the machine of docs/performance.md in its quiet minutes: 5 ns for each round.
local total = tonumber(os.getenv("BENCH_RECORDS"))
local count = 0
local first

return function(message, ctx)
  local sum = #message.value
  for i = 1, 2000 do
    sum = (sum * 31 + i) & 0xffffff
  end
  count = count + 1
  if count == 1 then
    first = ctx.startTime
  elseif count == total then
    print(("bench: %d %d %d"):format(count, first, ctx.startTime))
  end
end
