//! What handlers may require besides one another: trees of `LuaRocks` and C modules; and what is no Lua text.

use std::io::Write;
use std::process::Command;

use crate::support::client::numbered;
use crate::support::daemon::{Daemon, moontide};
use crate::support::kafka;
use crate::support::project::{Project, from_beginning};
use crate::support::wait::DEADLINE;

/// What `luarocks install --tree` leaves behind.
#[test]
fn a_luarocks_tree_and_a_c_module_are_required() {
    let Some(kafka) = kafka::shared() else { return };
    let topic = kafka.topic("modules", 1);
    let project = Project::new(kafka).sections("[lua]\npath = \"@/share/lua/5.4/?.lua;@/share/lua/5.4/?/init.lua\"\ncpath = \"@/lib/lua/5.4/?.so\"");
    project.write(
        "tree/share/lua/5.4/greet.lua",
        "return { word = \"hello\" }\n",
    );
    project.write(
        "tree/share/lua/5.4/deep/init.lua",
        "return { word = require(\"greet\").word .. \" \" .. require(\"deep.inner\") }\n",
    );
    project.write("tree/share/lua/5.4/deep/inner.lua", "return \"there\"\n");
    if !compile(&project) {
        return;
    }
    project.handler(
        "orders.lua",
        r#"
        local record = require "record"
        local deep, tiny = require "deep", require "tiny"
        return function(message, ctx)
          record.line("done", message, ctx, deep.word .. " " .. tiny(tonumber(message.value)))
        end
        "#,
    );
    let tree = project.path("tree");
    let text = project.config_text(&from_beginning("orders", &topic.name, "orders"));
    project.write("config.toml", &text.replace('@', tree.to_str().unwrap()));
    topic.produce(numbered(21..22, 0));

    let checked = moontide(&["check", "--config"], &project.path("config.toml"));
    assert_eq!(checked.status.code(), Some(0), "{checked:?}");
    let mut daemon = Daemon::start(&project);

    let entries = project.wait_for_entries("done", 1, DEADLINE);
    assert_eq!(entries[0].extra, "hello there 42");
    // A module that a C library holds is loaded once more in the next bundle's VM.
    project.replace_handler(
        "orders.lua",
        &std::fs::read_to_string(project.path("handlers/orders.lua"))
            .unwrap()
            .replace("\"done\"", "\"again\""),
    );
    daemon.wait_line("reloaded", |line| line.is("reloaded"));
    topic.produce(numbered(4..5, 0));
    let entries = project.wait_for_entries("again", 1, DEADLINE);
    assert_eq!(entries[0].extra, "hello there 8");
    daemon.stop();
}

/// Whether there is a compiler.
fn compile(project: &Project) -> bool {
    // Declared here, since the program carries Lua's code but not its headers.
    project.write(
        "tree/lib/lua/5.4/tiny.c",
        r"
        typedef struct lua_State lua_State;
        typedef long long lua_Integer;
        extern lua_Integer luaL_checkinteger(lua_State *, int);
        extern void lua_pushinteger(lua_State *, lua_Integer);
        extern void lua_pushcclosure(lua_State *, int (*)(lua_State *), int);
        static int twice(lua_State *L) { lua_pushinteger(L, 2 * luaL_checkinteger(L, 1)); return 1; }
        int luaopen_tiny(lua_State *L) { lua_pushcclosure(L, twice, 0); return 1; }
        ",
    );
    let compiled = Command::new("cc")
        .args(["-shared", "-fPIC", "-o", "tiny.so", "tiny.c"])
        .current_dir(project.path("tree/lib/lua/5.4"))
        .status();
    let Ok(status) = compiled else {
        let sentence = "SKIPPED: there is no `cc` to compile a C module with
";
        std::io::stderr().write_all(sentence.as_bytes()).unwrap();
        return false;
    };
    assert!(status.success());
    true
}

/// Compiled Lua is not checked by anyone and can crash the process: it is refused, wherever it comes from.
#[test]
fn compiled_lua_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = |file: &str| folder.path().join(file);
    std::fs::create_dir(path("handlers")).unwrap();
    std::fs::write(
        path("config.toml"),
        "[kafkaConfig]\nbrokers = [\"127.0.0.1:1\"]\n[consumerConfig]\ngroupId = \"g\"\n\
         [[listeners]]\ntopic = \"t\"\nhandler = \"orders\"\n[lua]\npath = \"?.lua\"\n",
    )
    .unwrap();
    let check = |handler: &[u8]| {
        std::fs::write(path("handlers/orders.lua"), handler).unwrap();
        let output = moontide(&["check", "--config"], &path("config.toml"));
        (
            output.status.code(),
            String::from_utf8(output.stderr).unwrap(),
        )
    };
    let dump = b"return load(string.dump(function() return 1 end)) and function() end";
    for handler in [
        &b"\x1bLua\x54\x00\x19\x93\r\n\x1a\n"[..],
        b"return assert(load(string.dump(print)))",
    ] {
        let (code, said) = check(handler);
        assert_eq!(code, Some(78), "{said}");
        assert!(said.contains("handlers/orders.lua"), "{said}");
    }
    let (code, said) = check(dump);
    assert_eq!(
        code,
        Some(78),
        "`load` returns nil, which is no function: {said}"
    );
    let (code, said) = check(b"return assert(load(\"return function() end\", \"text\"))()");
    assert_eq!(code, Some(0), "text is loaded: {said}");
}
