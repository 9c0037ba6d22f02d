local tide = require "tide"

local db = tide.sql("main")

local has_table

-- With the lock, since PostgreSQL refuses one of two that make a table at once.
local function prepare()
  if has_table then return end
  db:transaction(function(tx)
    tx:execute("SELECT pg_advisory_xact_lock(1)")
    tx:execute("CREATE TABLE IF NOT EXISTS customers (id text PRIMARY KEY, city text, at bigint NOT NULL)")
  end)
  has_table = true
end

local M = {}

function M.store(message, ctx)
  prepare()
  local customer = tide.json.decode(message.value)
  db:execute([[
    INSERT INTO customers (id, city, at) VALUES ($1, $2, $3)
    ON CONFLICT (id) DO UPDATE SET city = excluded.city, at = excluded.at
    WHERE customers.at <= excluded.at]],
    message.key, customer.city or tide.null, message.timestamp)
  local row = db:one("SELECT city FROM customers WHERE id = $1", message.key)
  ctx.logger.info(message.key .. " lives in " .. row.city)
end

return M
