-- Counts messages and looks at none.
local total = tonumber(os.getenv("BENCH_RECORDS"))
local count = 0
local first

return function(_, ctx)
  count = count + 1
  if count == 1 then
    first = ctx.startTime
  elseif count == total then
    print(("bench: %d %d %d"):format(count, first, ctx.startTime))
  end
end
