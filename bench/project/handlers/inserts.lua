-- Writes the messages of a batch to PostgreSQL together.
local tide = require "tide"
local db = tide.sql("bench")
local total = tonumber(os.getenv("BENCH_RECORDS"))
local count = 0
local first

return function(batch)
  first = first or tide.now()
  local rows = {}
  for i, message in ipairs(batch.messages) do
    rows[i] = { id = message.offset, value = message.value }
  end
  db:insert("documents", rows)
  count = count + #rows
  if count >= total then print(("bench: %d %d %d"):format(count, first, tide.now())) end
end
