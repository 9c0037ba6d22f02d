local tide = require "tide"

-- Each worker has a VM of its own, and each VM loads this file. With each = "process" there is one tick a second all the
-- same. The next tick may run in another worker: what ticks remember is in tide.app, not in a local variable.
tide.every("1s", function()
  local number = (tide.app.getAttr("heartbeats") or 0) + 1
  tide.app.setAttr("heartbeats", number)
  local beat = { number = number, last = tide.app.getAttr("last") or tide.json.null }
  tide.kafka.send{ topic = "heartbeats", key = "example", value = tide.json.encode(beat) }
end, { each = "process" })

local M = {}

function M.heard(message, ctx)
  local beat = tide.json.decode(message.value)
  ctx.logger.info("heartbeat " .. beat.number, { last = beat.last })
end

return M
