//! `debug` in the hands of a script: an error at most, never the end of the process.

use crate::lua::tests::*;

#[test]
fn values_of_c_functions_are_out_of_reach() {
    passes(
        r"
        local resume = coroutine.resume
        for _, f in ipairs { tide.sleep, tide.now, tide.json.decode, tide.parallel, resume, ctx.retry, ctx.logger.info,
                             os.exit, debug.setupvalue, string.gmatch('x', 'x'), coroutine.wrap(print) } do
            for i = 1, 4 do
                assert(debug.getupvalue(f, i) == nil)
                assert(debug.setupvalue(f, i, 42) == nil)
                assert(debug.setupvalue(f, i, io.stdout) == nil)
            end
        end
        assert(tide.now() > 0 and #tide.json.decode('[1]') == 1)
        ctx.logger.info('x')
        ",
    );
}

#[test]
fn values_of_lua_functions_are_as_in_lua() {
    passes(
        r"
        local kept = 1
        local function f() return kept end
        local name, value = debug.getupvalue(f, 1)
        assert(name == 'kept' and value == 1 and debug.setupvalue(f, 1, 2) == 'kept' and f() == 2)
        local a = 'here'
        local found
        for i = 1, 9 do
            local name, value = debug.getlocal(1, i)
            if name == 'a' then found = i assert(value == 'here') end
        end
        assert(debug.setlocal(1, found, 'there') == 'a' and a == 'there')
        assert(debug.getlocal(f, 1) == nil and debug.getlocal(function(x) end, 1) == 'x')
        local co = coroutine.create(function(x) coroutine.yield(x) end)
        coroutine.resume(co, 7)
        assert(debug.getlocal(co, 1, 1) == 'x' and select(2, debug.getlocal(co, 1, 1)) == 7)
        assert(debug.setlocal(co, 1, 1, 8) == 'x' and select(2, debug.getlocal(co, 1, 1)) == 8)
        local ok, e = pcall(debug.getlocal, 99, 1)
        assert(not ok and e:find('level out of range'), e)
        ",
    );
}

#[test]
fn stacks_of_c_functions_are_out_of_reach() {
    passes(
        r"
        local outer = coroutine.create(function()
            coroutine.resume(coroutine.create(function()
                for level = 0, 5 do
                    if debug.getinfo(level, 'S') and debug.getinfo(level, 'S').what == 'C' then
                        for i = 1, 6 do
                            assert(debug.getlocal(level, i) == nil)
                            assert(debug.setlocal(level, i, 42) == nil)
                        end
                    end
                end
            end))
        end)
        assert(coroutine.resume(outer))
        ",
    );
}

#[test]
fn a_foreign_metatable_is_refused() {
    for value in ["ctx", "ctx.logger", "io.stdout", "tide.json.null"] {
        let failure = fails(&format!(
            "debug.setmetatable({value}, debug.getmetatable(io.stderr))"
        ));
        assert!(
            failure
                .message
                .contains("cannot change the metatable of a userdata"),
            "{}",
            failure.message
        );
    }
    passes(
        "debug.setmetatable(nil, { __index = function() return 7 end }) assert((nil).x == 7) debug.setmetatable(nil, nil)",
    );
}

#[test]
fn methods_look_at_what_they_are_called_with() {
    for (body, said) in [
        (
            "debug.getmetatable(ctx.logger).__index(io.stdout, 'info')",
            "this value is not a logger",
        ),
        (
            "debug.getmetatable(ctx.logger).__index()",
            "this value is not a logger",
        ),
        (
            "debug.getmetatable(ctx).__index(io.stdout, 'topic')",
            "this value is not a `ctx`",
        ),
        (
            "debug.getmetatable(ctx).__index(tide.json.null, 'topic')",
            "this value is not a `ctx`",
        ),
        (
            "debug.getregistry()",
            "`debug.getregistry` is not available",
        ),
    ] {
        let failure = fails(body);
        assert!(
            failure.message.contains(said),
            "{body}: {}",
            failure.message
        );
    }
    // A ctx has the block of a logger.
    passes("debug.getmetatable(ctx.logger).__index(ctx, 'info')('x')");
    passes(
        "debug.setuservalue(ctx.logger, 42, 1) debug.setuservalue(ctx, 42, 1) ctx.logger.info('x') pcall(ctx.headers, 'x')",
    );
}

/// What `debug.getinfo` finds below a handler and below a file.
#[test]
fn functions_of_the_host_start_nothing_for_a_script() {
    passes(
        r"
        for level = 1, 9 do
            local info = debug.getinfo(level, 'fS')
            if info and info.what == 'C' then
                for _, argument in ipairs { 42, tide.json.null, io.stdout, ctx, 'x' } do
                    assert(not pcall(info.func, argument))
                end
                assert(not pcall(info.func))
            end
        end
        ",
    );
    Setup::new()
        .file(
            "h.lua",
            r"
            -- One of them is the loader, which runs this again.
            if began then return function() end end
            began = true
            local null = require 'tide'.json.null
            local levels, functions = 0, 0
            for level = 1, 9 do
                local info = debug.getinfo(level, 'fS')
                levels = levels + (info and 1 or 0)
                if info and info.what == 'C' then
                    functions = functions + 1
                    for _, argument in ipairs { 42, null, io.stdout, function() end } do
                        pcall(info.func, argument)
                    end
                    pcall(info.func)
                end
            end
            assert(functions >= 2, functions)
            return function() end
            ",
        )
        .handler("h")
        .build();
}
