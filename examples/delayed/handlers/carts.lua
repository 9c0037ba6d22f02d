local tide = require "tide"

local M = {}

-- The delay counts from the timestamp of a record, which is the time of the send where it is not set.
function M.changed(message, ctx)
  ctx.logger.info(message.key .. " put " .. message.value .. " into the cart")
  tide.kafka.send{ topic = "carts.reminders", key = message.key, value = message.value }
end

function M.remind(message, ctx)
  local age = tide.now() - message.timestamp
  ctx.logger.info(message.key .. " still has " .. message.value .. " in the cart", { age_ms = age })
end

return M
