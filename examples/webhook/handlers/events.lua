local tide = require "tide"

local hook = os.getenv("HOOK_URL") or "http://localhost:8080/hooks"

local M = {}

function M.tell(message, ctx)
  local response = tide.http.post(hook, {
    body = message.value, headers = { ["content-type"] = "application/json" }, timeout = "5s",
  })
  if response.status == 410 then ctx.skip("the receiver wants no more events") end
  response:check()
  ctx.logger.info(message.key .. " was told in attempt " .. ctx.attempt)
end

return M
