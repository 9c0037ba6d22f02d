-- Gets a small document by HTTP for every message, and waits for it.
local tide = require "tide"
local total = tonumber(os.getenv("BENCH_RECORDS"))
local url = os.getenv("BENCH_HTTP") .. "/document"
local count = 0
local first

return function()
  first = first or tide.now()
  tide.http.get(url):check()
  count = count + 1
  if count == total then print(("bench: %d %d %d"):format(count, first, tide.now())) end
end
