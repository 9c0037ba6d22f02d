local tide = require "tide"

local seen = tide.redis("seen")

-- Whether another message has had this order. The first one keeps its right to it when it runs again.
local function is_repeat(id, message)
  local own = message.topic .. "/" .. message.partition .. "/" .. message.offset
  local key = "example:order:" .. id
  if seen:set(key, own, "NX", "EX", 86400) then return false end
  return seen:get(key) ~= own
end

local M = {}

function M.pay(message, ctx)
  local order = tide.json.decode(message.value)
  if is_repeat(order.id, message) then
    ctx.logger.info(order.who .. "'s order " .. order.id .. " comes again")
    return
  end
  ctx.logger.info(order.who .. " pays " .. order.price * order.count)
end

return M
