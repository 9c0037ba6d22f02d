local tide = require "tide"

local M = {}

function M.sum(message, ctx)
  local sum = tide.json.decode(message.value)
  ctx.logger.info(("%s paid %d in %d payments at %d h"):format(message.key, sum.total, sum.payments, sum.hour))
end

return M
