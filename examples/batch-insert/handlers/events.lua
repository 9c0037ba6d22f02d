local tide = require "tide"

local db = tide.sql("main")

local has_table

-- With the lock, since PostgreSQL refuses one of two that make a table at once.
local function prepare()
  if has_table then return end
  db:transaction(function(tx)
    tx:execute("SELECT pg_advisory_xact_lock(1)")
    tx:execute([[
      CREATE TABLE IF NOT EXISTS events (
        topic text, partition int, position bigint, at timestamptz, body jsonb,
        PRIMARY KEY (topic, partition, position))]])
  end)
  has_table = true
end

local M = {}

function M.eachBatch(batch, ctx)
  prepare()
  local rows = {}
  for i, message in ipairs(batch.messages) do
    rows[i] = {
      topic = batch.topic, partition = batch.partition, position = message.offset,
      at = message.timestamp, body = message.value,
    }
  end
  local ok, count = pcall(db.insert, db, "events", rows)
  if tide.error.is(count, "conflict") then
    -- Some are there already: the batch has run before.
    count = db:insert("events", rows, { onConflict = "ignore" })
  elseif not ok then
    error(count, 0)
  end
  ctx.logger.info(batch.topic .. ": " .. count .. " of " .. #rows .. " rows are new")
end

return M
