//! `tide.log`.

use crate::lua::tests::context::logged;
use crate::lua::tests::*;

#[test]
fn lines_are_written_outside_of_a_call_too() {
    let lines = logged(|| {
        let mut setup = handler(
            "tide.log.debug('hidden') tide.log.warn('in a call', { a = 1 }) tide.log.error({})",
        );
        setup = setup.file(
            "init.lua",
            "require('tide').log.info('loads', { n = 9007199254740993 })",
        );
        assert!(matches!(setup.build().run(), Step::Done));
    });
    assert_eq!(lines.len(), 3, "{lines:?}");
    assert!(lines.iter().all(|line| line["target"] == "handler"));
    let fields: Vec<_> = lines.iter().map(|line| &line["fields"]).collect();
    assert_eq!(fields[0]["message"], "loads");
    assert_eq!(fields[0]["position"], "handlers/init.lua:1");
    assert_eq!(fields[0]["fields"], "{\"n\":9007199254740993}");
    assert!(fields[0].get("listener").is_none() && fields[0].get("topic").is_none());
    assert_eq!(lines[1]["level"], "WARN");
    assert_eq!(fields[1]["position"], "handlers/h.lua:2");
    assert_eq!(
        (&fields[1]["listener"], &fields[1]["topic"]),
        (&"h".into(), &"orders".into())
    );
    assert_eq!(
        (&fields[1]["partition"], &fields[1]["offset"]),
        (&3.into(), &0.into())
    );
    assert_eq!(fields[1]["fields"], "{\"a\":1}");
    assert_eq!(lines[2]["level"], "ERROR");
    assert!(fields[2].get("fields").is_none());
}
