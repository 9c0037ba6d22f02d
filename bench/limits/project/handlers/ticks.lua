-- `tick` sleeps for a millisecond again and again and writes down how long that took; `loop` never ends.
local tide = require "tide"
local file = assert(io.open(os.getenv("BENCH_DIRECTORY") .. "/gaps", "a"))
file:setvbuf("line")
local seconds = tonumber(os.getenv("BENCH_SECONDS"))

return function(message, ctx)
  if message.value == "loop" then while true do end end
  local app = ctx.app
  local began, last = "began-" .. message.partition, "last-" .. message.partition
  if not app.getAttr(began) then app.setAttr(began, tide.now()) end
  repeat
    tide.sleep(1)
    local now, before = tide.now(), app.getAttr(last)
    if before then file:write(message.partition .. " " .. now - before .. "\n") end
    app.setAttr(last, now)
  until now - app.getAttr(began) > seconds * 1000
  print("bench: partition " .. message.partition .. " has ticked")
end
