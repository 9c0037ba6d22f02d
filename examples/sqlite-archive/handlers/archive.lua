local tide = require "tide"

local db = tide.sql("archive")

local has_table

local function prepare()
  if has_table then return end
  db:execute([[
    CREATE TABLE IF NOT EXISTS messages (
      topic TEXT, partition INT, position INT, key BLOB, value BLOB,
      PRIMARY KEY (topic, partition, position))]])
  has_table = true
end

local M = {}

function M.keep(message, ctx)
  prepare()
  db:insert("messages", {
    topic = message.topic, partition = message.partition, position = message.offset,
    key = message.key or tide.null, value = message.value or tide.null,
  }, { onConflict = "ignore" })
  local count = db:one("SELECT count(*) AS n FROM messages").n
  ctx.logger.info(("kept %s %d/%d, %d messages in the archive"):format(
    message.topic, message.partition, message.offset, count))
end

return M
