local M = {}

function M.gotData(message, ctx)
  ctx.logger.info("order " .. message.value .. " at offset " .. message.offset)
end

return M
