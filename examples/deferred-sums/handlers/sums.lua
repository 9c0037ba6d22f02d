local tide = require "tide"

-- "ada@9" → the sum of an hour, and the deferrals of its messages. Each VM has its own.
local sums = {}

local function send(sum)
  local record = { hour = sum.hour, total = sum.total, payments = #sum.deferrals }
  local ok, err = pcall(tide.kafka.send, { topic = "sums", key = sum.account, value = tide.json.encode(record) })
  for _, deferral in ipairs(sum.deferrals) do
    if ok then deferral:done() else deferral:fail(err) end
  end
end

-- Sends the sums to which nothing was added for this long. Other handlers run while it waits.
local function flush(quiet)
  local closed = {}
  for key, sum in pairs(sums) do
    if tide.now() - sum.changed >= quiet then
      sums[key] = nil
      closed[#closed + 1] = sum
    end
  end
  for _, sum in ipairs(closed) do send(sum) end
end

-- In each worker, since deferrals belong to the VM of their messages.
tide.every("500ms", function() flush(2000) end, { each = "worker" })
-- What is done here is committed before the partitions go.
tide.on("revoked", function() flush(0) end)

local M = {}

function M.add(message, ctx)
  local payment = tide.json.decode(message.value)
  local key = message.key .. "@" .. payment.hour
  local sum = sums[key] or { account = message.key, hour = payment.hour, total = 0, deferrals = {} }
  sums[key] = sum
  sum.total = sum.total + payment.amount
  sum.changed = tide.now()
  sum.deferrals[#sum.deferrals + 1] = ctx.defer{ timeout = "1m" }
end

return M
