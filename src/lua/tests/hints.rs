//! First errors say what to do, and where they are.

use crate::lua::tests::*;

#[track_caller]
fn says(body: &str, expected: &str) {
    let message = fails(body).message;
    assert!(message.contains(expected), "{message}");
}

#[track_caller]
fn loads_with(file: &str, expected: &str) {
    let error = Setup::new().file("h.lua", file).handler("h").error();
    assert_eq!(error, expected);
}

#[test]
fn first_errors_have_a_hint() {
    says(
        "require 'json'",
        "no file 'handlers/json.lua' in the bundle; JSON is `require \"tide\".json`",
    );
    says(
        "require 'tide.json'",
        "the modules of tide are fields: `local tide = require \"tide\"`",
    );
    says(
        "message.value = 'x' message.value.toString()",
        "`tostring` makes one of other values",
    );
    says(
        "message.value = 'x' message.value:toString()",
        "`tostring` makes one of other values",
    );
    says(
        "local v = message.message.value",
        "the first argument of a handler is the message itself",
    );
    says("local v = 'x' .. message.value", "it is a tombstone");
    says(
        "local v = ctx.value",
        "; the message is the first argument of a handler",
    );
}

#[test]
fn tide_without_require_has_a_hint() {
    let setup = Setup::new()
        .file("h.lua", "return function() tide.sleep(1) end")
        .handler("h");
    assert_eq!(
        failure(setup.build().run()).message,
        "handlers/h.lua:1: attempt to index a nil value (global 'tide'); `local tide = require \"tide\"` at the top of \
         the file makes it known"
    );
}

#[test]
fn a_method_has_a_hint() {
    let setup = Setup::new()
        .file(
            "h.lua",
            "local M = {} function M:run(message, ctx) error(ctx.topic) end return M",
        )
        .handler("h.run");
    let message = failure(setup.build().run()).message;
    assert!(
        message.contains(
            "; the handler's first parameter is `self`, as in a function defined with a colon"
        ),
        "{message}"
    );
}

#[test]
fn an_inherited_handler_has_a_hint() {
    let error = Setup::new()
        .file(
            "h.lua",
            "return setmetatable({}, { __index = { run = function() end } })",
        )
        .handler("h.run")
        .error();
    assert_eq!(
        error,
        "handlers/h.lua: no function `run` in the table that it returns, there are no functions in it; a function that it \
         inherits by `__index` is not seen: write `M.run = Base.run` (listener `h.run`)"
    );
}

#[test]
fn an_error_without_a_place_names_its_file() {
    loads_with("error('boom', 0)", "handlers/h.lua: boom");
    loads_with("error(nil)", "handlers/h.lua: an error value that is nil");
    loads_with(
        "coroutine.yield()",
        "handlers/h.lua:1: attempt to yield from outside a coroutine; to wait, use `tide.sleep`",
    );
    loads_with(
        "dofile '/nothing/there.lua'",
        "handlers/h.lua:1: cannot open /nothing/there.lua: No such file or directory",
    );
    let nested = Setup::new()
        .file("h.lua", "require 'sub.other' return print")
        .file("sub/other.lua", "error('boom', 0)")
        .handler("h");
    assert_eq!(nested.error(), "handlers/sub/other.lua: boom");
}

/// Also of a file that would be loaded later, by a call.
#[test]
fn every_file_has_to_compile() {
    let setup = Setup::new()
        .file("h.lua", "return function() require 'late' end")
        .file("late.lua", "\nlocal = 1")
        .file("later.lua", "\u{1b}Lua")
        .handler("h");
    assert_eq!(
        setup.error(),
        "handlers/late.lua:2: <name> expected near '='\n\
         handlers/later.lua: attempt to load a binary chunk (mode is 't')"
    );
}

#[test]
fn null_is_called_null() {
    let null = "local null = tide.json.null";
    for (body, expected) in [
        (
            "local v = null.name",
            "attempt to index null (`tide.json.null`) for its field 'name'",
        ),
        (
            "null.name = 1",
            "attempt to index null (`tide.json.null`) for its field 'name'",
        ),
        (
            "local v = 'x' .. null",
            "attempt to concatenate null (`tide.json.null`)",
        ),
        (
            "local v = 1 + null",
            "attempt to perform arithmetic on null (`tide.json.null`)",
        ),
        ("local v = #null", "attempt to get length of null"),
        ("local v = null < 1", "attempt to compare null"),
        ("null()", "attempt to call null"),
        ("string.rep(null, 2)", "string expected, got null"),
        ("tide.sleep(null)", "not null"),
        ("error(null)", "an error value that is null"),
    ] {
        says(&format!("{null} {body}"), expected);
    }
    passes(&format!(
        "{null} assert(tostring(null) == 'null' and null == tide.json.decode('null') and null ~= nil)"
    ));
}
