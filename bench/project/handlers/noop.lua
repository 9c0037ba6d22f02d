-- Counts messages and looks at none.
local now = require "tide".now
local total = tonumber(os.getenv("BENCH_RECORDS"))
local count = 0
local first

return function()
  count = count + 1
  if count == 1 then
    first = now()
  elseif count == total then
    print(("bench: %d %d %d"):format(count, first, now()))
  end
end
