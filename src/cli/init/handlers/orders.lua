local M = {}

-- Runs for every message. A call that returns is done; one that raises has failed and runs again.
function M.gotData(message, ctx)
  local who = message.key or "somebody"
  -- A tombstone has no value.
  local what = message.value or "nothing any more"
  ctx.logger.info(who .. " ordered " .. what)
end

return M
