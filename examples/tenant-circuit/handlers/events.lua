local tide = require "tide"

local url = os.getenv("API_URL") or "http://localhost:8080"
local circuits = tide.kv("circuits")

-- Whether the service has taken the event. The second failure within a minute opens the circuit, which closes by
-- itself: its entry expires.
local function request(tenant)
  local response = tide.http.get(url .. "/customers/" .. tenant)
  if response.status < 400 then return true end
  if circuits:incr("failures " .. tenant, 1, { ttl = "1m" }) >= 2 then
    circuits:set("open " .. tenant, true, { ttl = "30s" })
  end
  return false
end

local function park(message, ctx, reason)
  ctx.logger.warn(message.key .. reason .. ": " .. message.value .. " is parked")
  ctx.emit{ topic = "events.parked", key = message.key, value = message.value }
end

local M = {}

function M.deliver(message, ctx)
  if circuits:get("open " .. message.key) then
    park(message, ctx, "'s circuit is open")
  elseif request(message.key) then
    ctx.logger.info(message.key .. " gets " .. message.value)
  else
    park(message, ctx, "'s service fails")
  end
end

return M
