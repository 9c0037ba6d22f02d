//! `tide.json`.

use std::cell::RefCell;

use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use serde_json::Value;

use crate::lua::tests::*;

#[test]
fn what_is_decoded_is_encoded_alike() {
    for text in [
        "null",
        "true",
        "false",
        "0",
        "-1",
        "9223372036854775807",
        "-9223372036854775808",
        "999999999999999999",
        "-999999999999999999",
        "1888944671579078978",
        "0.1",
        "-0.0",
        "1e300",
        "2.5e-10",
        r#""""#,
        r#""a\"\\\n\t\u0001""#,
        r#""é€😀""#,
        "[]",
        "{}",
        "[1,[2,[3,{}]],[]]",
        r#"{"a":[null,true]}"#,
        "[null,null]",
    ] {
        passes_with(
            "local v = tide.json.encode(tide.json.decode(message.value)) assert(v == message.value, v)",
            &OwnedRecord {
                value: Some(text.as_bytes().into()),
                ..OwnedRecord::default()
            },
        );
    }
}

#[test]
fn values_have_their_lua_types() {
    passes(
        r#"
        local d = tide.json.decode
        assert(math.type(d("1")) == "integer" and math.type(d("1.0")) == "float" and math.type(d("1e2")) == "float")
        assert(d("18446744073709551616") == 2.0^64)
        assert(d("9223372036854775808") == 2.0^63 and d("-9223372036854775809") == -2.0^63)
        assert(math.type(d("-0")) == "float" and 1 / d("-0") == -math.huge)
        assert(d("null") == tide.json.null and d(" [ null , 1 ] ")[1] == tide.json.null)
        assert(d('"\\u00e9\\ud83d\\ude00\\/\\b\\f"') == "é😀/\b\f")
        local o = d('{"a":1,"a":2,"b":{"c":[1,2,3]}}')
        assert(o.a == 2 and #o.b.c == 3)
        "#,
    );
}

#[test]
fn tables_are_arrays_or_objects() {
    passes(
        r#"
        local e = tide.json.encode
        assert(e({}) == "{}" and e(tide.json.array({})) == "[]" and e(tide.json.array()) == "[]")
        assert(e({ 1, 2 }) == "[1,2]" and e({ a = { "x" } }) == '{"a":["x"]}')
        assert(e({ [10] = 1 }) == '{"10":1}')
        assert(e(tide.json.array({ 1, nil, 3 })) == "[1,null,3]")
        assert(e(1.0) == "1.0" and e(1) == "1" and e("/") == '"/"')
        "#,
    );
}

#[test]
fn small_objects_after_large_ones_take_little_memory() {
    passes(
        r#"
        local d = tide.json.decode
        local fields = {}
        for i = 1, 64 do fields[i] = ('"f%d":%d'):format(i, i) end
        local large = "{" .. table.concat(fields, ",") .. "}"
        local kept = {}
        collectgarbage()
        local before = collectgarbage("count")
        for i = 1, 1000 do
          assert(d(large).f64 == 64)
          kept[i] = d('{"a":1}')
        end
        collectgarbage()
        local each = (collectgarbage("count") - before) * 1024 / #kept
        assert(each < 300, each)
        "#,
    );
}

#[test]
fn bytes_that_are_no_utf_8_have_a_position() {
    for (text, at) in [
        (&b"\"\xff\""[..], 2),
        (b"\"0123456789\xc3\"", 12),
        (b"\"\\\xff\"", 3),
    ] {
        let mut f = handler("tide.json.decode(message.value)").build();
        let record = OwnedRecord {
            value: Some(text.into()),
            ..OwnedRecord::default()
        };
        let message = failure(f.call(&record)).message;
        let expected = format!("invalid UTF-8 at byte {at}");
        assert!(message.contains(&expected), "{message}");
    }
}

#[test]
fn a_bad_document_has_a_position() {
    for (text, message) in [
        ("", "unexpected end at byte 1"),
        ("[1,]", "expected a value at byte 4"),
        ("[1 2]", "expected `,` or `]` at byte 4"),
        ("{a:1}", "expected a key in quotes at byte 2"),
        (r#"{"a" 1}"#, "expected `:` at byte 6"),
        (r#"{"a":1"#, "unexpected end at byte 7"),
        ("01", "trailing characters at byte 2"),
        ("1.", "expected a digit at byte 3"),
        ("tru", "expected a value at byte 1"),
        ("NaN", "expected a value at byte 1"),
        ("1e999", "a number out of range at byte 1"),
        (r#""a"#, "unexpected end of a string at byte 3"),
        (r#""\"#, "unexpected end of a string at byte 3"),
        ("\"\n\"", "a control character in a string at byte 2"),
        (r#"["a\x"]"#, "an unknown escape at byte 4"),
        (r#""\ud800""#, "half of a surrogate pair at byte 2"),
        (r#""\udc00\ud800""#, "half of a surrogate pair at byte 2"),
        (
            r#""\u12""#,
            "four hexadecimal digits are missing after `\\u` at byte 2",
        ),
        ("[] []", "trailing characters at byte 4"),
    ] {
        let mut f = handler("tide.json.decode(message.value)").build();
        let record = OwnedRecord {
            value: Some(text.as_bytes().into()),
            ..OwnedRecord::default()
        };
        assert_eq!(
            failure(f.call(&record)).message,
            format!("handlers/h.lua:2: tide.json.decode: {message}"),
            "{text}"
        );
    }
    assert!(
        fails("tide.json.decode('\"\\xff\"')")
            .message
            .ends_with("invalid UTF-8 at byte 2")
    );
    assert!(
        fails("tide.json.decode(nil)")
            .message
            .ends_with("`tide.json.decode` takes a string, not nil")
    );
}

#[test]
fn depth_has_a_limit_both_ways() {
    passes(
        "local s = string.rep('[', 128) .. string.rep(']', 128) assert(tide.json.encode(tide.json.decode(s)) == s)",
    );
    assert!(
        fails("tide.json.decode(string.rep('[', 129) .. string.rep(']', 129))")
            .message
            .ends_with("more than 128 levels at byte 129")
    );
    assert!(
        fails("tide.json.decode(string.rep('[', 1000000))")
            .message
            .ends_with("more than 128 levels at byte 129")
    );
    assert!(
        fails("local t = {} t.t = t tide.json.encode(t)")
            .message
            .ends_with("a table within itself, or more than 128 deep")
    );
}

#[test]
fn what_has_no_json_form_raises() {
    for (value, message) in [
        ("print", "a function has no JSON form"),
        ("0/0", "NaN has no JSON form"),
        ("{ 1/0 }", "inf has no JSON form"),
        (
            "'\\xff'",
            "a string with invalid UTF-8 at its byte 1 has no JSON form; encode it first, for instance as hexadecimal",
        ),
        ("{ [true] = 1 }", "a boolean cannot be a key of an object"),
        (
            "tide.json.array({ a = 1 })",
            "an array has a key that is no index of it",
        ),
    ] {
        assert_eq!(
            fails(&format!("tide.json.encode({value})")).message,
            format!("handlers/h.lua:2: tide.json.encode: {message}")
        );
    }
}

#[test]
fn a_text_that_outgrows_the_memory_of_lua_is_an_error() {
    let mut setup = handler(
        "local t = { 'x' } for _ = 1, 60 do t = { t, t } end local ok, e = pcall(tide.json.encode, t) assert(not ok and e:find('longer than 8388608 bytes'), e)",
    );
    setup.memory = 8 << 20;
    assert!(matches!(setup.build().run(), Step::Done));
}

#[test]
fn keys_that_were_seen_before_are_told_apart() {
    passes(
        r#"
        local d = tide.json.decode
        -- More than are remembered, of all lengths about where that ends, and each of them again and again.
        for round = 1, 3 do
          for number = 1, 1000 do
            local key = ("k"):rep(number % 20) .. number
            local text = ('{"%s":%d,"%s":{"%s":true}}'):format(key, number, key .. "x", key)
            local object = d(text)
            assert(object[key] == number and object[key .. "x"][key] == true, text)
            collectgarbage("step")
          end
        end
        local close = d('{"a":1,"ä":2,"a\\u0000":3,"":4,"abcdefgh":5,"abcdefghi":6,"abcdefghabcdefgh":7,"abcdefghabcdefghi":8}')
        assert(close.a == 1 and close["ä"] == 2 and close["a\0"] == 3 and close[""] == 4 and close.abcdefgh == 5)
        assert(close.abcdefghi == 6 and close.abcdefghabcdefgh == 7 and close.abcdefghabcdefghi == 8)
        "#,
    );
}

/// Parts of documents, so chosen that they often make one and often nearly do.
fn parts() -> impl Strategy<Value = Vec<u8>> {
    let part = prop::sample::select(vec![
        &b"{"[..],
        b"}",
        b"[",
        b"]",
        b",",
        b":",
        b" ",
        b"\t\r\n",
        b"\"",
        b"\"\"",
        b"\"a\"",
        b"\"a\":",
        b"\"key-of-17-bytes-\":",
        b"\"long enough for more than one step\"",
        b"abcdefgh",
        "é".as_bytes(),
        "日本語の文".as_bytes(),
        b"\xff",
        b"\0",
        b"\x1f",
        b"\\",
        b"\\n",
        b"\\u00e9",
        b"\\ud83d",
        b"\\ude00",
        b"true",
        b"false",
        b"null",
        b"tru",
        b"-",
        b"0",
        b"1",
        b"250",
        b"123456789012345678",
        b".",
        b"e",
        b"E+",
        b"-0.0",
        b"1e3",
        b"0.5",
        b"[1,2]",
        b"{\"a\":1}",
    ]);
    prop::collection::vec(part, 0..12).prop_map(|parts| parts.concat())
}

/// A document, of which a few bytes may be others.
fn nearly_documents() -> impl Strategy<Value = Vec<u8>> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<i32>().prop_map(|number| Value::from(f64::from(number) / 1000.0)),
        ".{0,30}".prop_map(Value::from),
    ];
    let value = leaf.prop_recursive(4, 40, 6, |value| {
        prop_oneof![
            prop::collection::vec(value.clone(), 0..6).prop_map(Value::from),
            prop::collection::btree_map(".{0,20}", value, 0..6)
                .prop_map(|fields| Value::Object(fields.into_iter().collect())),
        ]
    });
    let others = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..3);
    (value, any::<bool>(), others).prop_map(|(value, is_pretty, others)| {
        let written = if is_pretty {
            serde_json::to_vec_pretty(&value)
        } else {
            serde_json::to_vec(&value)
        };
        let mut text = written.unwrap();
        for (at, byte) in others {
            let at = at.index(text.len());
            text[at] = byte;
        }
        text
    })
}

/// `serde_json` reads a float to its last bit but one, and integers up to 2⁶⁴ as such.
fn are_alike(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Number(a), Value::Number(b)) => {
            if let (Some(a), Some(b)) = (a.as_i64(), b.as_i64()) {
                return a == b;
            }
            let (a, b) = (a.as_f64().unwrap(), b.as_f64().unwrap());
            (a - b).abs() <= a.abs() * 1e-15
        }
        (Value::Array(a), Value::Array(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| are_alike(a, b))
        }
        (Value::Object(a), Value::Object(b)) => {
            let same = |((key, a), (other, b))| key == other && are_alike(a, b);
            a.len() == b.len() && a.iter().zip(b).all(same)
        }
        _ => one == other,
    }
}

#[test]
fn any_text_is_read_as_serde_json_reads_it() {
    let fixture = RefCell::new(
        handler("return nil, '=' .. tide.json.encode(tide.json.decode(message.value))").build(),
    );
    let read = |text: Vec<u8>| {
        let record = OwnedRecord {
            value: Some(text.as_slice().into()),
            ..OwnedRecord::default()
        };
        let words = failure(fixture.borrow_mut().call(&record)).message;
        let expected: Option<Value> = serde_json::from_slice(&text).ok();
        let found: Option<Value> = words
            .strip_prefix('=')
            .map(|text| serde_json::from_str(text).unwrap());
        let is_right = match (&expected, &found) {
            (Some(expected), Some(found)) => are_alike(expected, found),
            (expected, found) => expected.is_none() && found.is_none(),
        };
        prop_assert!(is_right, "{words}, not {expected:?}");
        Ok(())
    };
    TestRunner::default().run(&parts(), read).unwrap();
    TestRunner::default()
        .run(&nearly_documents(), read)
        .unwrap();
}
