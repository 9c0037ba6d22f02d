local tide = require "tide"

local M = {}

function M.gotData(message, ctx)
  ctx.logger.info(message.key .. " ordered " .. message.value)
  tide.app.setAttr("last", { who = message.key, at = message.timestamp })
end

return M
