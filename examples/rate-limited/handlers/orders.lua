local tide = require "tide"

local url = os.getenv("API_URL") or "http://localhost:8080"
local api = tide.limit("api", { rate = "5/1s", concurrency = 2 })

local M = {}

function M.send(message, ctx)
  local order = tide.json.decode(message.value)
  local response = api:run(tide.http.get, url .. "/customers/" .. order.who)
  ctx.logger.info("order " .. order.number .. " goes to " .. response:check():json().city)
end

return M
