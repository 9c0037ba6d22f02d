//! Handler files, init.lua, `require` and what is loaded.

use crate::lua::tests::*;

const MODULE: &str = "local M = {} M.n = 0 function M.gotData(m, ctx) M.n = M.n + 1 end function M.other() end return M";

#[test]
fn a_handler_is_a_function_of_its_file() {
    let mut f = Setup::new()
        .file("billing/orders.lua", MODULE)
        .file(
            "count.lua",
            "return function() assert(require('billing.orders').n == 1) end",
        )
        .handler("billing/orders.gotData")
        .handler("count")
        .build();
    let record = OwnedRecord::default();
    assert!(matches!(f.call_listener(0, &record), Step::Done));
    assert!(matches!(f.call_listener(1, &record), Step::Done));
}

#[test]
fn all_bad_handlers_are_told_at_once_and_a_bad_file_once() {
    let mut setup = Setup::new().file("a.lua", "x =").file("b.lua", MODULE);
    for handler in ["a.f", "a.g", "b.gotDatta", "b.n", "b.gotData"] {
        setup = setup.handler(handler);
    }
    assert_eq!(
        setup.error(),
        "handlers/a.lua:1: unexpected symbol near <eof>\n\
         handlers/b.lua: no function `gotDatta` in the table that it returns, did you mean `gotData`? (listener `b.gotDatta`)\n\
         handlers/b.lua: `n` is a number, but should be a function (listener `b.n`)"
    );
}

#[test]
fn a_bad_file_is_told_with_its_place() {
    let module =
        |text: &str, handler: &str| Setup::new().file("h.lua", text).handler(handler).error();
    assert_eq!(
        module("x =", "h"),
        "handlers/h.lua:1: unexpected symbol near <eof>"
    );
    assert_eq!(module("\nerror('boom')", "h"), "handlers/h.lua:2: boom");
    assert_eq!(
        module(MODULE, "h.gotdata"),
        "handlers/h.lua: no function `gotdata` in the table that it returns, did you mean `gotData`? (listener `h.gotdata`)"
    );
    assert_eq!(
        module(MODULE, "h.zzzzzzzz"),
        "handlers/h.lua: no function `zzzzzzzz` in the table that it returns, there are `gotData`, `other` \
         (listener `h.zzzzzzzz`)"
    );
    assert_eq!(
        module(MODULE, "h.n"),
        "handlers/h.lua: `n` is a number, but should be a function (listener `h.n`)"
    );
    assert_eq!(
        module(MODULE, "h"),
        "handlers/h.lua: returns a table, but the handler names no function of it; there are `gotData`, \
         `other` (listener `h`)"
    );
    assert_eq!(
        module("return 1", "h"),
        "handlers/h.lua: returns a number, but should return a function (listener `h`)"
    );
    assert_eq!(
        module("\u{feff}#!/usr/bin/env lua\nerror('boom')", "h"),
        "handlers/h.lua:2: boom"
    );
    assert_eq!(
        module("error({ code = 1 })", "h"),
        "handlers/h.lua: an error value that is a table, with neither `message` nor `__tostring`"
    );
    assert_eq!(
        module("require 'no.such'", "h"),
        "handlers/h.lua:1: module 'no.such' not found:\n\tno field package.preload['no.such']\n\tno file \
         'handlers/no/such.lua' in the bundle"
    );
    assert_eq!(
        module("", "h.f"),
        "handlers/h.lua: returns nothing, but should return a table with the function `f` (listener `h.f`)"
    );
    assert_eq!(
        module("", "g"),
        "listener `g`: handler `g` needs the file handlers/g.lua, which does not exist"
    );
    assert_eq!(
        module("\x1bLua", "h"),
        "handlers/h.lua: attempt to load a binary chunk (mode is 't')"
    );
    let missing = module("require 'none'", "h");
    assert!(
        missing.starts_with("handlers/h.lua:1: module 'none' not found:")
            && missing.contains("no file 'handlers/none.lua' in the bundle"),
        "{missing}"
    );
}

#[test]
fn an_error_without_a_position_has_its_file() {
    let cases = [
        ("error('boom', 0)", "handlers/h.lua: boom"),
        (
            "coroutine.yield()",
            "handlers/h.lua:1: attempt to yield from outside a coroutine; to wait, use `tide.sleep`",
        ),
        (
            "error('prices.lua: gone', 0)",
            "handlers/h.lua: prices.lua: gone",
        ),
        (
            "error(select(2, load('x =')), 0)",
            "handlers/h.lua: [string \"x =\"]:1: unexpected symbol near <eof>",
        ),
        (
            "dofile('prices.lua')",
            "handlers/h.lua:1: cannot open prices.lua: No such file or directory",
        ),
        (
            "error(setmetatable({}, { __tostring = function() return 'x' end }))",
            "handlers/h.lua: x",
        ),
        ("require('inner')", "handlers/inner.lua: boom"),
        ("require('outer')", "handlers/outer.lua:1: boom"),
    ];
    for (text, expected) in cases {
        let setup = Setup::new()
            .file("h.lua", text)
            .file("inner.lua", "error('boom', 0)")
            .file("outer.lua", "error('boom')")
            .handler("h");
        assert_eq!(setup.error(), expected, "{text}");
    }
}

#[test]
fn a_module_has_one_name() {
    let setup = Setup::new()
        .file("a/b.lua", "return 1")
        .file("h.lua", "require 'a/b' return print")
        .handler("h");
    assert!(
        setup
            .error()
            .contains("no module 'a/b' in the bundle: its name is written with dots")
    );
}

#[test]
fn modules_that_require_each_other_are_told() {
    let setup = Setup::new()
        .file("a.lua", "require 'b'")
        .file("b.lua", "require 'a'")
        .handler("a");
    assert_eq!(
        setup.error(),
        "handlers/b.lua:1: module 'a' requires itself: a → b → a"
    );
    // One that failed may be tried again.
    passes(
        "assert(not pcall(require, 'none')) package.preload.x = function() return 7 end assert(require('x') == 7)",
    );
}

#[test]
fn init_runs_once_in_each_vm() {
    let init = "local tide = require 'tide' started = 0 return { start = function() tide.sleep(1) started = started + 1 end, shutdown = function() error('late') end }";
    let mut f = Setup::new()
        .file("init.lua", init)
        .file("h.lua", "return function() assert(started == 1) end")
        .handler("h")
        .build();
    assert!(matches!(f.run(), Step::Failed(_)));
    f.vm.start(&f.pulse).unwrap();
    assert!(matches!(f.run(), Step::Done));
    assert_eq!(
        f.vm.shutdown(&f.pulse).unwrap_err().to_string(),
        "handlers/init.lua:1: late"
    );
}

#[test]
fn init_does_not_wait_for_long() {
    let init = "local tide = require 'tide'\nreturn function() tide.sleep(1) tide.sleep('1h') end";
    let mut f = Setup::new().file("init.lua", init).build();
    assert_eq!(
        f.vm.start(&f.pulse).unwrap_err().to_string(),
        "handlers/init.lua:2: takes more than 10 s in a wait that holds every other message up"
    );
}

#[test]
fn init_may_return_a_function_or_nothing() {
    for init in ["return function() end", "", "return {}"] {
        let mut f = Setup::new().file("init.lua", init).build();
        f.vm.start(&f.pulse).unwrap();
        f.vm.shutdown(&f.pulse).unwrap();
    }
    assert!(
        Setup::new()
            .file("init.lua", "return 1")
            .error()
            .starts_with("handlers/init.lua: returns a number, but should")
    );
    assert!(
        Setup::new()
            .file("init.lua", "return { start = 1 }")
            .error()
            .starts_with("handlers/init.lua: `start` is a number")
    );
    assert_eq!(
        Setup::new()
            .file("init.lua", "return { strat = function() end }")
            .error(),
        "handlers/init.lua: returns a table with neither `start` nor `shutdown`; there are `strat`"
    );
    let mut f = Setup::new()
        .file(
            "init.lua",
            "return function() return nil, 'no database' end",
        )
        .build();
    assert!(
        f.vm.start(&f.pulse)
            .unwrap_err()
            .to_string()
            .contains("no database")
    );
}

#[test]
fn only_text_is_loaded() {
    passes(
        r"
        assert(load('return 1')() == 1 and load('return x', 'n', 't', { x = 2 })() == 2)
        local parts = { 'return ', '3' }
        assert(load(function() return table.remove(parts, 1) end)() == 3)
        local code = string.dump(function() end)
        local f, e = load(code)
        assert(f == nil and e:find('binary chunk'))
        assert(not pcall(load, code, 'n', 'b'))
        assert(load(code, 'n', 'bt') == nil)
        assert(loadfile('/nonexistent') == nil and not pcall(dofile, '/nonexistent') and not pcall(dofile))
        ",
    );
}

#[test]
fn a_precompiled_module_is_not_loaded() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("binary.lua");
    let mut setup = handler(&format!(
        "local file = io.open({path:?}, 'wb') file:write(string.dump(function() return 1 end)) file:close() local ok, e = pcall(require, 'binary') assert(not ok and e:find('binary chunk') and e:find(\"module 'binary'\"), e)"
    ));
    setup.path = format!("{}/?.lua", directory.path().display());
    assert!(matches!(setup.build().run(), Step::Done));
}

#[test]
fn files_outside_the_bundle_load_as_text() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("rock.lua");
    std::fs::write(&path, "return { name = ... }").unwrap();
    let body = format!(
        "assert(loadfile({path:?})('x').name == 'x' and dofile({path:?}).name == nil and require('rock').name == 'rock')"
    );
    let mut setup = handler(&body);
    setup.path = format!("{}/?.lua", directory.path().display());
    assert!(matches!(setup.build().run(), Step::Done));
}

#[test]
fn the_process_cannot_be_ended_from_lua() {
    assert!(
        fails("os.exit(0)")
            .message
            .starts_with("handlers/h.lua:2: `os.exit` would end the daemon")
    );
    assert!(
        fails("debug.sethook()")
            .message
            .contains("`debug.sethook` is not available")
    );
}

#[test]
fn c_modules_find_luas_api_in_the_program() {
    let directory = tempfile::tempdir().unwrap();
    let source = directory.path().join("tiny.c");
    // Declared here, since the program carries Lua's code but not its headers.
    let code = r"
        typedef struct lua_State lua_State;
        typedef long long lua_Integer;
        extern lua_Integer luaL_checkinteger(lua_State *, int);
        extern void lua_pushinteger(lua_State *, lua_Integer);
        extern void lua_pushcclosure(lua_State *, int (*)(lua_State *), int);
        extern void *luaL_testudata(lua_State *, int, const char *);
        extern const char *luaL_gsub(lua_State *, const char *, const char *, const char *);
        extern void lua_upvaluejoin(lua_State *, int, int, int, int);
        void *unused[] = { luaL_testudata, luaL_gsub, lua_upvaluejoin };
        static int twice(lua_State *L) { lua_pushinteger(L, 2 * luaL_checkinteger(L, 1)); return 1; }
        int luaopen_tiny(lua_State *L) { lua_pushcclosure(L, twice, 0); return 1; }
    ";
    std::fs::write(&source, code).unwrap();
    let library = directory.path().join("tiny.so");
    let compiled = std::process::Command::new("cc")
        .args(["-shared", "-fPIC", "-o"])
        .arg(&library)
        .arg(&source)
        .status();
    let Ok(status) = compiled else {
        use std::io::Write;
        writeln!(
            std::io::stderr(),
            "SKIPPED: there is no `cc` to compile a C module with"
        )
        .unwrap();
        return;
    };
    assert!(status.success());
    let mut setup = handler("assert(require('tiny')(21) == 42)");
    setup.cpath = format!("{}/?.so", directory.path().display());
    match setup.build().run() {
        Step::Done => {}
        step => panic!("{step:?}"),
    }
}
