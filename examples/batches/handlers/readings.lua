local tide = require "tide"

local path = os.getenv("READINGS_FILE") or os.tmpname()

local M = {}

local function read()
  local values = {}
  local file = io.open(path)
  for line in file and file:lines() or pairs{} do
    local sensor, celsius = line:match("^(%S+) (.*)$")
    if sensor then values[sensor] = celsius end
  end
  if file then file:close() end
  return values
end

-- The new file replaces the old one as a whole: a run that fails in between leaves the old one.
local function write(values)
  local file = assert(io.open(path .. ".new", "w"))
  for sensor, celsius in pairs(values) do file:write(sensor, " ", celsius, "\n") end
  assert(file:close())
  assert(os.rename(path .. ".new", path))
end

-- One read and one write for all messages. A batch that runs again stores the same.
function M.eachBatch(batch, ctx)
  local values = read()
  for _, message in ipairs(batch.messages) do
    values[message.key] = tide.json.decode(message.value).celsius
  end
  write(values)
  ctx.logger.info("stored " .. #batch .. ": the porch has " .. read().porch)
end

return M
