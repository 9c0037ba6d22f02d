-- Decodes every value and reads three fields of the object.
local tide = require "tide"
local decode, now = tide.json.decode, tide.now
local total = tonumber(os.getenv("BENCH_RECORDS"))
local count = 0
local first

return function(message)
  local order = decode(message.value)
  if not (order.id and order.customer and order.amount) then error("no order") end
  count = count + 1
  if count == 1 then
    first = now()
  elseif count == total then
    print(("bench: %d %d %d"):format(count, first, now()))
  end
end
