local tide = require "tide"

local api = tide.env("API_URL") or "http://localhost:8080"

-- The services, in the order in which they take an order.
local steps = { "/stock", "/payments", "/shipments" }
-- A service that fails so often counts as one that refuses.
local ATTEMPTS = 4

-- The status of a step. Each attempt has the same key, so a service that knows it acts once.
local function take(step, order)
  local ok, response = pcall(tide.http.post, api .. step, {
    json = order, headers = { ["idempotency-key"] = order.id .. step }, timeout = "5s",
  })
  if ok then return response.status end
  if tide.error.is(response, "timeout") then return 504 end
  error(response)
end

local M = {}

function M.place(message, ctx)
  local order = tide.json.decode(message.value)
  for number, step in ipairs(steps) do
    local status = take(step, order)
    if status >= 500 and ctx.attempt < ATTEMPTS then
      ctx.retry(step .. " answered " .. status)
    elseif status >= 400 then
      -- A refusal has done nothing. Behind any other status the step may have happened.
      local done = status < 500 and number - 1 or number
      local undo = { order = order, done = done, reason = step .. " answered " .. status }
      ctx.emit{ topic = "orders.undo", key = message.key, value = tide.json.encode(undo) }
      return
    end
  end
  ctx.logger.info("order " .. order.id .. " is placed in attempt " .. ctx.attempt)
end

function M.undo(message, ctx)
  local undo = tide.json.decode(message.value)
  local id = undo.order.id
  for number = undo.done, 1, -1 do
    local step = steps[number]
    local response = tide.http.delete(api .. step .. "/" .. tide.url.encode(id), {
      headers = { ["idempotency-key"] = id .. step .. "/undo" }, timeout = "5s",
    })
    if response.status ~= 404 then response:check() end
  end
  ctx.logger.info("order " .. id .. " is undone: " .. undo.reason)
end

return M
