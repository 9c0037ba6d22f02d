local M = {}

function M.store(message, ctx)
  ctx.logger.info("stored order " .. message.value)
end

return M
