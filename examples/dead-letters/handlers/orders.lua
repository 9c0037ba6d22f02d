local tide = require "tide"

local M = {}

function M.book(message, ctx)
  local order = tide.json.decode(message.value)
  local total = order.price * order.count
  local line = message.key .. " pays " .. total

  -- Only a dead letter has this header.
  local origin = message.headers["moontide-origin-topic"]
  if origin then
    line = line .. ", once message " .. message.headers["moontide-origin-offset"] .. " of " .. origin
  end
  ctx.logger.info(line)
end

return M
