//! `tide.on`: where it may be called, and what an observer is given.

use crate::lua::control::observers::PartitionEvent;
use crate::lua::tests::*;
use crate::wait::Value;

/// A VM with this text at the top level of a file.
fn file(text: &str) -> Setup {
    Setup::new()
        .file(
            "h.lua",
            &format!("local tide = require \"tide\"\n{text}\nreturn function() end"),
        )
        .handler("h")
}

#[test]
fn a_file_and_init_lua_declare_observers_with_their_position() {
    let app = Arc::new(App::default());
    let mut f = file("tide.on('assigned', print)\ntide.on('revoked', print)")
        .file(
            "init.lua",
            "local tide = require 'tide'\nreturn function()\n  tide.on('lost', print)\nend",
        )
        .build_with(&app)
        .unwrap();
    f.vm.start(&f.pulse).unwrap();
    let observers = f.vm.observers();
    let told: Vec<_> = observers
        .iter()
        .map(|(event, index, position)| (*event, *index, &**position))
        .collect();
    assert_eq!(
        told,
        [
            (PartitionEvent::Assigned, 0, "handlers/h.lua:2"),
            (PartitionEvent::Revoked, 1, "handlers/h.lua:3"),
            (PartitionEvent::Lost, 2, "handlers/init.lua:3"),
        ]
    );
    let control = app.consumers.of("default");
    assert!(control.observers.of(PartitionEvent::Lost).is_empty());
    f.vm.come_into_force(3);
    assert_eq!(control.observers.of(PartitionEvent::Lost), [3]);
}

#[test]
fn an_observer_gets_the_event() {
    let mut f = file(
        "tide.on('revoked', function(event) assert(event.event == 'revoked' and #event.partitions == 1) end)",
    )
    .build();
    let text = |text: &str| Value::Bytes(text.as_bytes().into());
    let one = Value::Table(vec![(text("topic"), text("orders"))]);
    let event = Arc::new(Value::Table(vec![
        (text("event"), text("revoked")),
        (
            text("partitions"),
            Value::Table(vec![(Value::Integer(1), one)]),
        ),
    ]));
    for _ in 0..3 {
        match f.vm.observe(&f.pulse, 0, event.clone()) {
            Step::Done => {}
            step => panic!("{step:?}"),
        }
    }
}

#[test]
fn an_observer_is_refused_once_its_bundle_is_in_force() {
    let message = fails("tide.on('lost', print)").message;
    assert!(
        message.starts_with("handlers/h.lua:2: `tide.on` comes too late"),
        "{message}"
    );
}

#[test]
fn wrong_arguments_are_told_with_what_is_allowed() {
    for (arguments, expected) in [
        (
            "",
            "`tide.on` takes the name of an event, \"assigned\", \"revoked\" or \"lost\", not nil",
        ),
        ("'revoke', print", "`tide.on` knows no event `revoke`, "),
        (
            "'lost', 5",
            "`tide.on` takes a function to run, not a number",
        ),
    ] {
        let text = format!("tide.on({arguments})");
        let message = file(&text).error();
        assert!(message.contains(expected), "{arguments}: {message}");
    }
    let message = file("for _ = 1, 101 do tide.on('lost', print) end").error();
    assert!(message.contains("at most 100 observers"), "{message}");
}
