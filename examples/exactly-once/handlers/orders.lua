local tide = require "tide"

local M = {}

function M.price(message, ctx)
  local order = tide.json.decode(message.value)
  order.total = order.price * order.count
  ctx.emit{ topic = "orders.priced", key = message.key, value = tide.json.encode(order) }
end

function M.show(message, ctx)
  local order = tide.json.decode(message.value)
  ctx.logger.info(order.who .. " pays " .. order.total)
end

return M
