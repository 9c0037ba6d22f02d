//! State of handlers in memory: `tide.once`, `tide.kv` and `tide.cache`. A call does it many times, so that the call
//! does not count.

use criterion::Criterion;
use moontide::micro::{Handler, Shape};

use crate::{one_message, per_message, timed};

const TIMES: u64 = 1_000;
/// Keys that are there already.
const KEYS: u64 = 100_000;

/// A handler's file, whose handler repeats `step` with one of many keys.
fn file(step: &str) -> String {
    format!(
        r#"
local tide = require "tide"
local once, kv = tide.once, tide.kv("bench")
local cached = tide.cache(function(key) return key end, {{ ttl = "1d", capacity = 1000000 }})
local function run() return true end
local keys
return function(message)
  if not keys then
    keys = {{}}
    for index = 1, {KEYS} do
      local key = "order-" .. index
      keys[index] = key
      once(key, "1d", run)
      kv:set(key, index, {{ ttl = "1d" }})
      cached(key)
    end
    return
  end
  for index = 1, {TIMES} do
    local key = keys[(message.offset * 7919 + index) % {KEYS} + 1]
    {step}
  end
end"#
    )
}

fn filled(step: &str) -> Handler {
    let shape = Shape {
        value: b"v".to_vec(),
        headers: 0,
    };
    let mut handler = Handler::new(&file(step), &shape);
    handler.call();
    handler
}

pub(crate) fn all(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("state, in memory");
    group.throughput(one_message());
    for (name, step) in [
        ("nothing", ""),
        ("once, a hit", "once(key, 86400000, run)"),
        ("kv get", "kv:get(key)"),
        ("kv set", "kv:set(key, index)"),
        ("kv incr", "kv:incr(key)"),
        ("cache, a hit", "cached(key)"),
    ] {
        // The entries are made once, and not for each sample.
        let mut made = None;
        group.bench_function(name, |bencher| {
            let handler = made.get_or_insert_with(|| filled(step));
            per_message(bencher, TIMES, || timed(|| handler.call()));
        });
    }
    group.finish();
}
