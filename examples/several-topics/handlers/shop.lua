local M = {}

function M.ordered(message, ctx)
  ctx.logger.info("ordered: " .. message.value)
end

function M.paid(message, ctx)
  ctx.logger.info("paid: " .. message.value)
end

function M.moved(message, ctx)
  ctx.logger.info("moved: " .. message.value .. " (" .. ctx.topic .. ")")
end

return M
