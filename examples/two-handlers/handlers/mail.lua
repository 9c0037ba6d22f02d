local M = {}

-- Fails the first time to show that the other listener does not run again.
function M.confirm(message, ctx)
  if ctx.attempt == 1 then
    error("the mail server is busy")
  end
  ctx.logger.info("confirmed order " .. message.value .. " at attempt " .. ctx.attempt)
end

return M
