-- Writes every message to PostgreSQL by a statement of its own.
local tide = require "tide"
local db = tide.sql("bench")
local total = tonumber(os.getenv("BENCH_RECORDS"))
local count = 0
local first

return function(message)
  first = first or tide.now()
  db:execute([[
    insert into documents (id, value) values ($1, $2)
    on conflict (id) do update set value = excluded.value]], message.offset, message.value)
  count = count + 1
  if count == total then print(("bench: %d %d %d"):format(count, first, tide.now())) end
end
