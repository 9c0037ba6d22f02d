local M = {}

-- Variables of a module live as long as their bundle. Each replay fills the table again.
local latest = {}

function M.gotData(message, ctx)
  latest[message.key] = message.value
  local known = 0
  for _ in pairs(latest) do
    known = known + 1
  end
  ctx.logger.info(message.key .. " costs " .. message.value .. ", prices known: " .. known)
end

return M
