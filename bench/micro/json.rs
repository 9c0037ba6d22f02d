//! `tide.json` in a handler: between bytes and Lua values. A call does it many times, so that the call does not count.

use std::fmt::Write as _;

use criterion::Criterion;
use moontide::micro::{Handler, Shape};

use crate::{one_of, per_message, timed};

/// A handler's file, whose handler repeats `step`.
fn file(times: u64, step: &str) -> String {
    format!(
        r#"
local json = require("tide").json
local decode, encode = json.decode, json.encode
local kept
return function(message)
  local text = message.value
  kept = kept or decode(text)
  for _ = 1, {times} do {step} end
end"#
    )
}

fn small() -> String {
    let mut text = r#"{"id":4711,"customer":"customer-815","amount":219.47,"currency":"EUR","items":[{"sku":"flute-55","count":2}],"paid":true,"note":""#.to_owned();
    while text.len() < 198 {
        text.push('x');
    }
    text + "\"}"
}

/// An order with many lines, each with tables of its own.
fn large() -> String {
    let mut text = r#"{"id":4711,"customer":{"id":815,"name":"customer-815","address":{"street":"Hafenstraße 1","city":"Hamburg"}},"lines":["#.to_owned();
    let mut number = 0;
    while text.len() < 9_900 {
        write!(
            text,
            r#"{{"sku":"flute-{number}","count":{},"price":{}.25,"tags":["wind","wood"],"stock":{{"place":"b-{number}","left":{number},"reserved":null}}}},"#,
            number % 5 + 1,
            number * 3,
        )
        .expect("a string takes what is written");
        number += 1;
    }
    text.pop();
    text + r#"],"amount":219.47,"paid":true}"#
}

pub(crate) fn all(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("json");
    for (size, text, times) in [("200 B", small(), 100), ("10 KB, nested", large(), 10)] {
        group.throughput(one_of(text.len()));
        let shape = Shape {
            value: text.into_bytes(),
            headers: 0,
        };
        for (name, step) in [
            ("decode", "local _ = decode(text)"),
            (
                "decode and read three fields",
                "local order = decode(text); local _, _, _ = order.id, order.customer, order.amount",
            ),
            ("encode", "local _ = encode(kept)"),
        ] {
            group.bench_function(format!("{name}, {size}"), |bencher| {
                let mut handler = Handler::new(&file(times, step), &shape);
                per_message(bencher, times, || timed(|| handler.call()));
            });
        }
    }
    group.finish();
}
