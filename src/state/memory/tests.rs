//! A store in memory: values, ends, bounds and atomic changes, as data.

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::state::codec;
use crate::wait::Value;

const WIDE: Bounds = Bounds {
    entries: 1_000,
    bytes: 1 << 20,
};

fn key(key: &str) -> Bytes {
    key.as_bytes().into()
}

fn set(name: &str, value: i64, ttl_ms: Option<u64>) -> Op {
    Op::Set {
        key: key(name),
        value: codec::of_integer(value).into(),
        ttl: ttl_ms.map(Duration::from_millis),
    }
}

fn value(memory: &Memory, name: &str, now: u64) -> Option<i64> {
    let bytes = memory.get(name.as_bytes(), now)?;
    codec::integer(&bytes)
}

#[test]
fn an_entry_ends_with_its_time_and_its_memory_comes_back() {
    let memory = Memory::new(WIDE);
    memory.run(set("a", 1, Some(100)), 1_000).unwrap();
    memory.run(set("b", 2, None), 1_000).unwrap();
    assert_eq!(value(&memory, "a", 1_099), Some(1));
    assert_eq!(value(&memory, "a", 1_100), None);
    assert_eq!(value(&memory, "b", u64::MAX - 1), Some(2));
    assert_eq!(memory.run(Op::Size, 10_000), Ok(Done::Number(1)));
    assert_eq!(memory.held(10_000).bytes, op::cost(b"b", &[0; 9]));
}

#[test]
fn a_counter_keeps_the_end_that_it_was_made_with() {
    let memory = Memory::new(WIDE);
    let incr = |by, now| {
        let op = Op::Incr {
            key: key("n"),
            by,
            init: 10,
            ttl: Some(Duration::from_secs(60)),
        };
        memory.run(op, now)
    };
    assert_eq!(incr(1, 0), Ok(Done::Number(11)));
    assert_eq!(incr(5, 59_999), Ok(Done::Number(16)));
    assert_eq!(incr(1, 60_000), Ok(Done::Number(11)));
}

#[test]
fn a_swap_counts_only_for_what_is_there() {
    let memory = Memory::new(WIDE);
    let bytes = |number| Some(Bytes::from(codec::of_integer(number)));
    let swap = |old, new, ttl: Option<u64>, now| {
        let op = Op::Swap {
            key: key("a"),
            old,
            new,
            ttl: ttl.map(Duration::from_millis),
        };
        match memory.run(op, now) {
            Ok(Done::Swapped(result)) => result,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(swap(bytes(1), bytes(2), None, 0), Err(None));
    assert_eq!(swap(None, bytes(1), Some(1_000), 0), Ok(()));
    assert_eq!(swap(None, bytes(3), None, 0), Err(bytes(1)));
    assert_eq!(swap(bytes(1), bytes(2), None, 0), Ok(()));
    assert_eq!(value(&memory, "a", 999), Some(2));
    assert_eq!(value(&memory, "a", 1_000), None, "it keeps its end");
    assert_eq!(swap(None, bytes(4), None, 2_000), Ok(()), "it has expired");
    assert_eq!(swap(bytes(4), None, None, 2_000), Ok(()));
    assert_eq!(memory.held(2_000), Held::default());
}

#[test]
fn nothing_is_evicted_at_a_bound() {
    let memory = Memory::new(Bounds {
        entries: 3,
        bytes: 1 << 20,
    });
    for (name, ttl) in [("a", None), ("b", Some(1_000)), ("c", None)] {
        memory.run(set(name, 1, ttl), 0).unwrap();
    }
    let error = memory.run(set("d", 1, None), 0).unwrap_err();
    assert_eq!(error.kind, "tooLarge");
    assert!(error.message.contains("`maxEntries` is 3"), "{error:?}");
    memory.run(set("a", 2, None), 0).unwrap();
    // What has expired makes room.
    memory.run(set("d", 1, None), 5_000).unwrap();
    assert_eq!(memory.held(5_000).entries, 3);
    memory.set_bounds(Bounds {
        entries: 1,
        bytes: 1 << 20,
    });
    assert_eq!(value(&memory, "c", 5_000), Some(1));
    memory.run(set("c", 9, None), 5_000).unwrap();
    memory.run(set("e", 1, None), 5_000).unwrap_err();
    memory.set_bounds(WIDE);
    memory.run(set("e", 1, None), 5_000).unwrap();
}

#[test]
fn bytes_are_a_bound_too() {
    let memory = Memory::new(Bounds {
        entries: 1_000,
        bytes: 2_000,
    });
    let large = |size: usize| Op::Set {
        key: key("a"),
        value: codec::encode(&Value::Bytes(vec![0; size].into())).into(),
        ttl: None,
    };
    memory.run(large(1_000), 0).unwrap();
    let error = memory.run(large(3_000), 0).unwrap_err();
    assert!(error.message.contains("`maxBytes` is 2000"), "{error:?}");
    memory.run(large(1_800), 0).unwrap();
    memory.run(Op::Delete { key: key("a") }, 0).unwrap();
    assert_eq!(memory.held(0), Held::default());
}

#[test]
fn a_scan_goes_on_behind_a_key() {
    let memory = Memory::new(WIDE);
    for number in 0..100 {
        memory
            .run(set(&format!("k{number:02}"), number, None), 0)
            .unwrap();
        memory.run(set(&format!("x{number}"), 0, None), 0).unwrap();
    }
    let mut found = Vec::new();
    let mut after: Option<Bytes> = None;
    loop {
        let op = Op::Scan {
            prefix: key("k"),
            after: after.clone(),
            limit: 7,
        };
        let Ok(Done::Entries(entries)) = memory.run(op, 0) else {
            panic!("no entries");
        };
        let Some((last, _)) = entries.last() else {
            break;
        };
        after = Some(last.clone());
        found.extend(
            entries
                .iter()
                .map(|(_, value)| codec::integer(value).unwrap()),
        );
    }
    assert_eq!(found, (0..100).collect::<Vec<_>>());
}

#[test]
fn several_threads_count_every_step() {
    let memory = Memory::new(WIDE);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..5_000 {
                    let op = Op::Incr {
                        key: key("n"),
                        by: 1,
                        init: 0,
                        ttl: None,
                    };
                    memory.run(op, 0).unwrap();
                }
            });
        }
    });
    assert_eq!(value(&memory, "n", 0), Some(20_000));
}

proptest! {
    /// As a map whose entries have an end each.
    #[test]
    fn a_store_is_as_a_map(steps in prop::collection::vec((0..4_u8, 0..8_u8, 1..5_000_u64), 1..200)) {
        let memory = Memory::new(WIDE);
        let mut model: BTreeMap<String, (i64, u64)> = BTreeMap::new();
        let mut now = 0;
        for (kind, name, time) in steps {
            let name = format!("key-{name}");
            match kind {
                0 => {
                    memory.run(set(&name, time as i64, Some(time)), now).unwrap();
                    model.insert(name, (time as i64, now + time));
                }
                1 => {
                    memory.run(set(&name, time as i64, None), now).unwrap();
                    model.insert(name, (time as i64, u64::MAX));
                }
                2 => {
                    let found = memory.run(Op::Delete { key: key(&name) }, now).unwrap();
                    prop_assert_eq!(found, Done::Deleted(model.remove(&name).is_some()));
                }
                _ => now += time,
            }
            model.retain(|_, (_, until)| *until > now);
            for number in 0..8 {
                let name = format!("key-{number}");
                let expected = model.get(&name).map(|(value, _)| *value);
                prop_assert_eq!(value(&memory, &name, now), expected);
            }
        }
        now += 10_000;
        model.retain(|_, (_, until)| *until > now);
        prop_assert_eq!(memory.held(now).entries, model.len() as u64);
    }
}
