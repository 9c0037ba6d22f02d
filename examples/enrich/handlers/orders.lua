local tide = require "tide"

local api = os.getenv("API_URL") or "http://localhost:8080"

local M = {}

function M.enrich(message, ctx)
  local order = tide.json.decode(message.value)
  local response = tide.http.get(api .. "/customers/" .. order.who)
  if response.status == 404 then
    ctx.logger.warn("nobody knows " .. order.who)
    ctx.skip("an unknown customer")
  end
  local customer = response:check():json()
  ctx.logger.info(order.who .. " lives in " .. customer.city .. " and pays " .. order.price * order.count)
end

return M
