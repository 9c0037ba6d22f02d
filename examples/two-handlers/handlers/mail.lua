local M = {}

-- The first attempt fails. Its retry does not run the other listener.
function M.confirm(message, ctx)
  if ctx.attempt == 1 then
    error("the mail server is busy")
  end
  ctx.logger.info("confirmed order " .. message.value .. " at attempt " .. ctx.attempt)
end

return M
