local M = {}

function M.gotData(message, ctx)
  ctx.logger.info("order " .. message.value .. " from " .. ctx.topic)
end

return M
