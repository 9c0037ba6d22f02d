local tide = require "tide"

local M = {}

-- Runs for every message. A call that returns is done; one that raises has failed and runs again.
function M.gotData(message, ctx)
  local order = tide.json.decode(message.value)
  ctx.logger.info("order " .. order.id .. " of " .. order.customer, { amount = order.amount, key = message.key })
end

return M
