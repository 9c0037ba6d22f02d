local M = {}

-- The committed offset is where the group starts next time. The offset of the message itself would repeat it after a
-- restart.
function M.gotData(message, ctx)
  ctx.logger.info("booked " .. message.value)
  local committed = ctx.commitOffsets(message.offset + 1)
  ctx.logger.info("next time from offset " .. committed)
end

return M
