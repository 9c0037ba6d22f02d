-- A handler that a backlog overwhelms.
local tide = require "tide"

return function(message)
  local _ = message.value
  tide.sleep(5)
end
