//! What is to become of a message, by its offset alone, and its key by its number: driver, handlers and oracle agree
//! without talking.

/// Keys of one partition; each is a lane where the order is by key.
pub(crate) const KEYS: usize = 61;

pub(crate) fn key_of(number: i64) -> String {
    format!("key-{}", key_number(number))
}

pub(crate) fn key_number(number: i64) -> usize {
    // Neighbours have different keys, and a key's messages lie at different distances.
    ((number / 3 + number * 7) % KEYS as i64) as usize
}

/// Never succeeds: to be found in the dead-letter topic.
pub(crate) fn is_hopeless(offset: i64) -> bool {
    offset % 503 == 17
}

/// Its copy has a twin in another partition, of the same transaction.
pub(crate) fn has_twin(offset: i64) -> bool {
    offset % 7 == 3
}

/// The time-out of a call: that of one that waits for longer, on purpose, and of no other.
pub(crate) const TIMEOUT: &str = "2s";

/// The same in Lua: fails the first attempts of some messages, waits in others, here and outside, records what it has done,
/// and emits an echo. The first attempt of a few waits until its time-out.
pub(crate) const HANDLER: &str = r#"
local tide = require "tide"
local file = assert(io.open("@RECORD@", "ab"))
file:setvbuf("full", 4096)
local instance, version = "@INSTANCE@", "@VERSION@"
return function(message, ctx)
  local offset, number = message.offset, math.tointeger(tonumber(message.value))
  if not number then
    file:write("? " .. message.partition .. " " .. offset .. " " .. tostring(message.value) .. "\n")
    file:flush()
  end
  if offset % 503 == 17 then error("hopeless") end
  if offset % 101 == 5 and ctx.attempt <= 1 + offset % 3 then error("not yet") end
  if offset % 53 == 9 then tide.sleep(offset % 20) end
  if offset % 6007 == 3000 and ctx.attempt == 1 then
    tide.parallel{ function() tide.echo.later(nil, 3600000) end, function() tide.sleep("1h") end }
  end
  if offset % 71 == 11 then
    local results = tide.parallel{
      function() return tide.echo.later(offset, math.random(0, 8)) end,
      function() tide.sleep(math.random(0, 8)) return number end,
      function() return tide.echo.later({ message.value }, math.random(0, 8)) end,
    }
    if results[1] ~= offset or results[2] ~= number or results[3][1] ~= message.value then
      file:write("? " .. message.partition .. " " .. offset .. " was answered otherwise\n")
      file:flush()
    end
  end
  -- One line, one system call: a daemon that is killed leaves no half of it.
  file:write(message.partition .. " " .. offset .. " " .. number .. " " .. ctx.attempt .. " " .. instance .. " " .. version .. "\n")
  file:flush()
  ctx.emit{ topic = "@ECHOES@", key = message.key, value = message.partition .. " " .. offset .. " " .. number .. " echo" }
end
"#;

/// Emits a copy of each message, and of some a twin. Some fail at first, some wait, so that others overtake them.
pub(crate) const COPIES: &str = r#"
local tide = require "tide"
return function(message, ctx)
  local offset = message.offset
  local function emit(kind, shift)
    ctx.emit{
      topic = "@COPIES@", partition = (message.partition + shift) % 3, key = message.key,
      value = message.partition .. " " .. offset .. " " .. math.tointeger(tonumber(message.value)) .. " " .. kind,
    }
  end
  emit("copy", 0)
  if offset % 89 == 7 and ctx.attempt == 1 then error("not yet") end
  if offset % 59 == 9 then tide.sleep(offset % 20) end
  if offset % 7 == 3 then emit("twin", 1) end
end
"#;

/// Records the values of a topic that the oracle does not look at. Some of them fail, each time.
pub(crate) const SIDE: &str = r#"
local file = assert(io.open("@RECORD@", "ab"))
file:setvbuf("full", 4096)
return function(message)
  local value = message.value or "nil"
  if value:sub(1, 5) == "fails" then error("hopeless") end
  if #value > 100 then value = #value .. " bytes" end
  file:write(message.topic .. " " .. value .. "\n")
  file:flush()
end
"#;
