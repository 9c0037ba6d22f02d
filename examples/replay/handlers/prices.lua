local M = {}

-- A module's variables live as long as its bundle: the table is filled anew by each replay.
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
