//! A message in, an outcome out.

use crate::lua::FailureKind;
use crate::lua::tests::*;
use crate::wait::Wait;

fn record() -> OwnedRecord {
    OwnedRecord {
        offset: 1_888_944_671_579_078_978,
        timestamp_ms: 1_700_000_000_123,
        key: Some((*b"k\0\xff").into()),
        value: Some((*b"v\0\xfe").into()),
        headers: vec![
            ((*b"one").into(), Some((*b"1").into())),
            ((*b"many").into(), Some((*b"a").into())),
            ((*b"many").into(), Some((*b"b").into())),
            ((*b"many").into(), Some((*b"c").into())),
            ((*b"null").into(), None),
        ],
    }
}

#[test]
fn a_message_has_its_fields() {
    passes_with(
        r#"
        assert(message.topic == "orders" and message.partition == 3)
        assert(message.offset == 1888944671579078978 and math.type(message.offset) == "integer")
        assert(message.key == "k\0\xff" and message.value == "v\0\xfe")
        assert(message.timestamp == 1700000000123)
        assert(message.headers.one == "1" and message.headers.null == "")
        assert(table.concat(message.headers.many, ",") == "a,b,c")
        assert(ctx.headers("one")[1] == "1" and #ctx:headers("many") == 3 and #ctx.headers("none") == 0)
        "#,
        &record(),
    );
}

#[test]
fn null_is_nil_and_empty_is_empty() {
    passes("assert(message.key == nil and message.value == nil and next(message.headers) == nil)");
    let empty = OwnedRecord {
        key: Some(Box::default()),
        value: Some(Box::default()),
        timestamp_ms: -1,
        ..OwnedRecord::default()
    };
    passes_with(
        "assert(message.key == '' and message.value == '' and message.timestamp == nil)",
        &empty,
    );
}

#[test]
fn a_handler_that_raises_has_failed() {
    let failure = fails("error('bad')");
    assert_eq!(failure.kind, FailureKind::Raised);
    assert_eq!(failure.message, "handlers/h.lua:2: bad");
    let traceback = failure.traceback.unwrap();
    assert!(
        traceback.contains("handlers/h.lua:2: in function"),
        "{traceback}"
    );
}

#[test]
fn a_handler_that_returns_nil_and_an_error_has_failed() {
    for body in ["return nil, 'bad'", "return false, 'bad'"] {
        let failure = fails(body);
        assert_eq!(
            (failure.kind, failure.message.as_str()),
            (FailureKind::Returned, "bad")
        );
    }
    for body in [
        "return",
        "return nil",
        "return false",
        "return true, 'x'",
        "return 0",
        "return nil, nil",
    ] {
        passes(body);
    }
}

#[test]
fn a_call_that_waits_goes_on_with_the_answer() {
    let mut f =
        handler("tide.sleep('1.5s') local o = ctx.commitOffsets('7') assert(o == 9) return nil, o")
            .build();
    let (id, Wait::Sleep(duration)) = waits(f.run()) else {
        panic!()
    };
    assert_eq!(duration, Duration::from_millis(1500));
    assert_eq!(f.vm.waiting(), 1);
    let (id, Wait::Commit(7)) = waits(f.resume(id, Answer::Slept)) else {
        panic!()
    };
    let failure = failure(f.resume(id, Answer::Committed(Ok(9))));
    assert_eq!(failure.message, "9");
    assert_eq!(f.vm.waiting(), 0);
}

#[test]
fn an_endless_loop_ends_at_its_limit() {
    let mut setup = handler("if message.key then return end while true do end");
    setup.blocking = Duration::from_millis(50);
    let mut f = setup.build();
    let failure = failure(f.run());
    assert_eq!(failure.kind, FailureKind::Blocking);
    assert_eq!(
        failure.message,
        "handlers/h.lua:2: computed for more than 50 ms without a pause (limits.blocking)"
    );
    assert!(matches!(f.call(&record()), Step::Done));
}
