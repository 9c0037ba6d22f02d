local M = {}

-- Runs for every message. A call that returns is done; one that raises has failed and runs again.
function M.gotData(message, ctx)
  local who = message.key or "somebody"
  ctx.logger.info(who .. " ordered " .. message.value)
end

return M
