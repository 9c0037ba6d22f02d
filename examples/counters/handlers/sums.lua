local tide = require "tide"

local sums = tide.kv("sums")

local M = {}

function M.show(message, ctx)
  local sum = sums:incr(message.key, tonumber(message.value), { ttl = "1h" })
  ctx.logger.info(("%s: %d order%s"):format(message.key, sum, sum == 1 and "" or "s"))
end

return M
