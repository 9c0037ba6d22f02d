local M = {}

-- The offset is the one to start at next time: this message's own would bring it again after a restart.
function M.gotData(message, ctx)
  ctx.logger.info("booked " .. message.value)
  local committed = ctx.commitOffsets(message.offset + 1)
  ctx.logger.info("next time from offset " .. committed)
end

return M
