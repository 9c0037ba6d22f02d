local tide = require "tide"

local M = {}

-- One invoice for the order, and one parcel for each item. The call returns when brokers have acknowledged all of them.
-- A run that fails in between runs again and sends all records again, so whoever reads them looks at the order's key.
function M.split(message, ctx)
  local order = tide.json.decode(message.value)
  local total, parcels = 0, {}
  for _, item in ipairs(order.items) do
    total = total + item.price
    parcels[#parcels + 1] = {
      key = message.key,
      value = tide.json.encode{ who = order.who, item = item.name },
    }
  end
  local sent = tide.kafka.sendBatch{ topicMessages = {
    {
      topic = "invoices",
      messages = { { key = message.key, value = tide.json.encode{ who = order.who, total = total } } },
    },
    { topic = "parcels", messages = parcels },
  } }
  ctx.logger.info("order " .. message.key .. ": " .. #sent .. " records")
end

function M.bill(message, ctx)
  local invoice = tide.json.decode(message.value)
  ctx.logger.info(invoice.who .. " pays " .. invoice.total)
end

function M.pack(message, ctx)
  local parcel = tide.json.decode(message.value)
  ctx.logger.info("a " .. parcel.item .. " for " .. parcel.who)
end

return M
