local tide = require "tide"

local M = {}

-- The customer decides the partition from here on. The headers go on with the record, and the old key as one of them.
function M.rekey(message, ctx)
  local order = tide.json.decode(message.value)
  if type(order.customer) ~= "string" then
    ctx.deadLetter("order " .. message.key .. " has no customer")
  end
  local headers = message.headers
  headers.order = message.key
  tide.kafka.send{
    topic = "orders.by-customer",
    key = order.customer,
    value = message.value,
    headers = headers,
    timestamp = message.timestamp,
  }
end

function M.of_customer(message, ctx)
  local order = tide.json.decode(message.value)
  ctx.logger.info(message.key .. " ordered " .. order.item .. " as " .. message.headers.order)
end

return M
