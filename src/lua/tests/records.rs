//! Any record becomes the message that it is, whatever its bytes.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt::Write as _;

use proptest::prelude::*;
use proptest::test_runner::TestRunner;

use crate::lua::tests::*;
use crate::rules::hex;

/// Fails with all of the message as text: headers by name, a list in brackets.
const TELLS: &str = r#"
local function hex(bytes)
  return bytes and (bytes:gsub(".", function(byte) return ("%02x"):format(byte:byte()) end)) or "nil"
end
local names = {}
for name in pairs(message.headers) do names[#names + 1] = name end
table.sort(names, function(a, b) return hex(a) < hex(b) end)
local text = { message.offset .. " " .. tostring(message.timestamp), hex(message.key), hex(message.value) }
for _, name in ipairs(names) do
  local value = message.headers[name]
  if type(value) == "table" then
    for index = 1, #value do value[index] = hex(value[index]) end
    value = "[" .. table.concat(value, ",") .. "]"
  else
    value = hex(value)
  end
  text[#text + 1] = hex(name) .. "=" .. value
  local all = ctx.headers(name)
  assert(type(all) == "table" and #all > 0)
end
error(table.concat(text, " "), 0)
"#;

fn told(record: &OwnedRecord) -> String {
    let or_nil = |bytes: &Option<Box<[u8]>>| {
        bytes
            .as_deref()
            .map_or_else(|| "nil".to_owned(), hex::encoded)
    };
    let mut headers: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (name, value) in &record.headers {
        let values = headers.entry(hex::encoded(name)).or_default();
        values.push(hex::encoded(value.as_deref().unwrap_or_default()));
    }
    let timestamp = match record.timestamp_ms {
        -1 => "nil".to_owned(),
        timestamp => timestamp.to_string(),
    };
    let mut text = format!("{} {timestamp}", record.offset);
    for field in [&record.key, &record.value] {
        write!(text, " {}", or_nil(field)).unwrap();
    }
    for (name, values) in headers {
        let value = match &values[..] {
            [value] => value.clone(),
            values => format!("[{}]", values.join(",")),
        };
        write!(text, " {name}={value}").unwrap();
    }
    text
}

fn bytes(most: usize) -> impl Strategy<Value = Box<[u8]>> {
    prop::collection::vec(any::<u8>(), 0..most).prop_map(Into::into)
}

fn record() -> impl Strategy<Value = OwnedRecord> {
    // Names of few letters: they repeat.
    let name = prop_oneof![
        bytes(3),
        prop::sample::select(vec![b"a", b"\0", b"\xff"]).prop_map(|name| name.as_slice().into())
    ];
    let headers = prop::collection::vec((name, prop::option::of(bytes(8))), 0..8);
    let (key, value) = (prop::option::of(bytes(20)), prop::option::of(bytes(20)));
    (0..i64::MAX, -1..i64::MAX, key, value, headers).prop_map(
        |(offset, timestamp_ms, key, value, headers)| OwnedRecord {
            offset,
            timestamp_ms,
            key,
            value,
            headers,
        },
    )
}

#[test]
fn any_record_becomes_the_message_that_it_is() {
    let fixture = RefCell::new(handler(TELLS).build());
    let mut runner = TestRunner::new(ProptestConfig::with_cases(2_000));
    let result = runner.run(&record(), |record| {
        let failure = failure(fixture.borrow_mut().call(&record));
        prop_assert_eq!(failure.message, told(&record));
        Ok(())
    });
    result.unwrap();
}
