local M = {}

-- Runs for every message. A call that returns is done; one that raises has failed and runs again.
function M.gotData(message, ctx)
  local who = message.key or "somebody"
  -- A message without a value is a tombstone: it deletes what its key stands for.
  if message.value == nil then
    ctx.logger.info(who .. " cancelled")
    return
  end
  ctx.logger.info(who .. " ordered " .. message.value)
end

return M
