local tide = require "tide"

local counts = tide.kv("counts")

tide.every("1s", function()
  for _, entry in ipairs(counts:scan{ limit = 1000 }) do
    if entry.value > 0 then
      tide.kafka.send{ topic = "counts", key = entry.key, value = tostring(entry.value) }
      counts:incr(entry.key, -entry.value)
    end
  end
end)

local M = {}

function M.count(message, ctx)
  local order = tide.json.decode(message.value)
  local minute = os.date("!%H:%M", message.timestamp // 1000)
  counts:incr(minute .. " " .. order.city, 1, { ttl = "1h" })
end

return M
