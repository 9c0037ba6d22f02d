local M = {}

-- The handler of the shipped config.toml logs each message. A call that returns is done, and with autoCommit its offset
-- is committed. A call that raises has failed and runs again.
function M.gotData(message, ctx)
  ctx.logger.info("got a message", { key = message.key, value = message.value })
end

return M
