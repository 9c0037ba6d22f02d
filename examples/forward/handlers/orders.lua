local tide = require "tide"

local M = {}

function M.price(message, ctx)
  local order = tide.json.decode(message.value)
  order.total = order.price * order.count
  local sent = tide.kafka.send{
    topic = "orders.priced",
    key = message.key,
    value = tide.json.encode(order),
    headers = message.headers,
  }
  ctx.logger.info("sent " .. order.who .. " to " .. sent.topic)
end

function M.show(message, ctx)
  local order = tide.json.decode(message.value)
  ctx.logger.info(order.who .. " pays " .. order.total)
end

return M
