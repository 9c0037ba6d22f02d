-- The latency of messages beside 1,000 calls of the same VM, as BENCH_WAIT says: `hang`, requests without an answer;
-- `answers`, requests that are answered at one moment, each second anew; `sleeps`, the same with sleeps; or none.
local tide = require "tide"
local latency = require "latency"
local url = os.getenv("BENCH_HTTP")
local calls = {}
for i = 1, 1000 do calls[i] = i end

local function together(one)
  tide.parallel(calls, one, { concurrency = #calls })
end

local kinds = {
  hang = function()
    tide.after(1, function()
      together(function() tide.http.get(url .. "/hang", { timeout = "4min" }) end)
    end, { each = "worker" })
  end,
  answers = function()
    tide.every("1s", function()
      together(function() tide.http.get(url .. "/together") end)
    end, { each = "worker" })
  end,
  sleeps = function()
    tide.every("1s", function()
      local due = tide.now() + 300
      together(function() tide.sleep(due - tide.now()) end)
    end, { each = "worker" })
  end,
}
local begin = kinds[os.getenv("BENCH_WAIT")]
if begin then begin() end

return latency
