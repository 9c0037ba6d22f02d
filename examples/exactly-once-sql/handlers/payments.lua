local tide = require "tide"

local db = tide.sql("main")

local has_table

-- With the lock, since PostgreSQL refuses one of two that make a table at once.
local function prepare()
  if has_table then return end
  db:transaction(function(tx)
    tx:execute("SELECT pg_advisory_xact_lock(1)")
    tx:execute("CREATE TABLE IF NOT EXISTS accounts (id text PRIMARY KEY, balance bigint NOT NULL)")
  end)
  has_table = true
end

local M = {}

function M.count(message, ctx)
  prepare()
  local payment = tide.json.decode(message.value)
  local ran, balance = db:once(function(tx)
    return tx:one([[
      INSERT INTO accounts VALUES ($1, $2)
      ON CONFLICT (id) DO UPDATE SET balance = accounts.balance + excluded.balance
      RETURNING balance]], payment.who, payment.amount).balance
  end)
  if ran then
    ctx.logger.info(payment.who .. " has " .. balance)
  else
    ctx.logger.info("the payment of " .. payment.who .. " was counted before")
  end
  -- What comes behind the transaction may fail.
  if ran and payment.breaks then error("the receipt was not printed") end
end

return M
