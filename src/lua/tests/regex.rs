//! `tide.regex`.

use crate::lua::tests::*;

#[test]
fn texts_are_searched() {
    passes(
        r##"
        local r = tide.regex.new([[(?<year>\d{4})-(\d\d)(-\d\d)?]])
        assert(tostring(r):find("year", 1, true))
        assert(r:test("on 2024-05-01") and not r:test("on 24-05-01"))
        local from, to, groups = r:find("on 2024-05 or 2023-04-03")
        assert(from == 4 and to == 10 and groups[0] == "2024-05" and groups[1] == "2024" and groups.year == "2024")
        assert(groups[2] == "05" and groups[3] == nil)
        from, to, groups = r:find("on 2024-05 or 2023-04-03", to + 1)
        assert(from == 15 and to == 24 and groups[3] == "-03")
        assert(r:find("on 2024-05", -3) == nil and r:find("2024-05", 99) == nil and r:find("2024-05", 0) == 1)
        assert(r:match("x") == nil and r:match("2024-05").year == "2024")
        assert(select("#", r:find("x")) == 1)
        -- A search from a position sees what is before it.
        local word = tide.regex.new([[\bb]])
        assert(word:find("ab b", 2) == 4)
        assert(tide.regex.new(""):find("") == 1)
        "##,
    );
}

#[test]
fn all_matches_are_given_one_after_the_other() {
    passes(
        r#"
        local r = tide.regex.new([[(\w+)=(\w+)]])
        local found = {}
        for groups in r:gmatch("a=1, b=2; c=3") do found[#found + 1] = groups[1] .. groups[2] end
        assert(table.concat(found, " ") == "a1 b2 c3")
        found = {}
        for groups in tide.regex.new("a*"):gmatch("baac") do found[#found + 1] = groups[0] end
        assert(table.concat(found, "|") == "|aa|", table.concat(found, "|"))
        local next_one = r:gmatch("x")
        assert(next_one() == nil and next_one() == nil)
        "#,
    );
}

#[test]
fn matches_are_replaced() {
    passes(
        r#"
        local r = tide.regex.new([[(?<name>\w+)@(\w+)]])
        local text, count = r:replace("a@b, c@d", "$2 at ${name}")
        assert(text == "b at a, d at c" and count == 2)
        text, count = r:replace("a@b, c@d", "$$", 1)
        assert(text == "$, c@d" and count == 1)
        text, count = r:replace("a@b, c@d, e@f", function(groups)
          if groups.name == "a" then return "[" .. groups[2] .. "]" end
          if groups.name == "c" then return nil end
          return false
        end)
        assert(text == "[b], c@d, e@f" and count == 3)
        text, count = r:replace("none", error)
        assert(text == "none" and count == 0)
        text, count = r:replace("a@b a@b a@b", function() return "\0\xff" end, 2)
        assert(text == "\0\xff \0\xff a@b" and count == 2)
        local deep = r:replace("a@b c@d", function(groups) return (r:replace(groups[0], "<$1>")) end)
        assert(deep == "<a> <c>")
        local parts = tide.regex.new([[\s*,\s*]]):split("a , b,c")
        assert(#parts == 3 and parts[1] == "a" and parts[2] == "b" and parts[3] == "c")
        parts = tide.regex.new(","):split("a,b,c", 2)
        assert(#parts == 2 and parts[2] == "b,c")
        assert(#tide.regex.new(","):split("") == 1)
        "#,
    );
}

#[test]
fn bytes_and_flags_have_their_meaning() {
    passes(
        r#"
        local function test(pattern, flags, text) return tide.regex.new(pattern, { flags = flags }):test(text) end
        assert(test("ABC", "i", "xabc") and not test("ABC", nil, "xabc"))
        assert(test("^b$", "m", "a\nb\nc") and not test("^b$", "", "a\nb\nc"))
        assert(test("a.b", "s", "a\nb") and not test("a.b", "", "a\nb"))
        assert(test("a b # c", "x", "ab"))
        assert(tide.regex.new("a+", { flags = "U" }):match("aaa")[0] == "a")
        assert(test([[^\xff$]], "b", "\xff") and not test("^.$", "", "\xff") and test("^.$", "b", "\xff"))
        assert(test([[^\w$]], "", "ü") and not test([[^\w$]], "b", "ü"))
        assert(test([[(?i)straße]], "", "STRAßE"))
        assert(tide.regex.new(tide.regex.escape("a.b*c")):test("a.b*c"))
        assert(not tide.regex.new(tide.regex.escape("a.b")):test("axb"))
        "#,
    );
}

/// More patterns than stay compiled: each is compiled again when it is used.
#[test]
fn patterns_beyond_the_bound_still_work() {
    passes(
        r#"
        local all = {}
        for i = 1, 250 do all[i] = tide.regex.new("^x" .. i .. "$") end
        for round = 1, 2 do
          for i = 1, 250 do assert(all[i]:test("x" .. i) and not all[i]:test("x" .. i .. "0")) end
        end
        "#,
    );
}

/// A pattern on which a search that goes back takes a time beyond all bounds.
#[test]
fn a_search_takes_linear_time() {
    let mut setup = handler(
        r#"
        local r = tide.regex.new("^(a+)+$")
        assert(not r:test(("a"):rep(1 << 20) .. "b"))
        assert(not tide.regex.new("(x+x+)+y"):test(("x"):rep(1 << 18)))
        "#,
    );
    setup.blocking = Duration::from_secs(20);
    assert!(matches!(setup.build().run(), Step::Done));
}

#[test]
fn a_function_that_waits_or_raises_ends_the_replacement() {
    let message = fails("tide.regex.new('a'):replace('aaa', function() tide.sleep(1) end)").message;
    assert!(
        message.contains("inside a callback of a C function"),
        "{message}"
    );
    passes(
        r#"
        local count = 0
        local ok, err = pcall(function()
          tide.regex.new("a"):replace("aaa", function() count = count + 1 error("no", 0) end)
        end)
        assert(not ok and err == "no" and count == 1)
        "#,
    );
}

#[test]
fn a_replacement_beyond_the_memory_of_the_vm_is_refused() {
    let mut setup = handler(
        r#"
        local ok, err = pcall(function() return tide.regex.new("a"):replace(("a"):rep(1 << 20), ("b"):rep(1 << 10)) end)
        assert(not ok and tide.error.is(err, "tooLarge"), tostring(err))
        "#,
    );
    setup.memory = 16 << 20;
    assert!(matches!(setup.build().run(), Step::Done));
}

#[test]
fn wrong_uses_are_told() {
    for (code, expected) in [
        (
            "tide.regex.new('(')",
            "`tide.regex.new`: the pattern is wrong: unclosed group",
        ),
        (
            "tide.regex.new([[(a)\\1]])",
            "backreferences are not supported; a search in linear time cannot have it",
        ),
        (
            "tide.regex.new('a', { flags = 'g' })",
            "`tide.regex.new`: `flags` has `g`; there are i (any case), m (lines), s (dot is any), x (space and comments), U (lazy) and b (bytes)",
        ),
        (
            "tide.regex.new('\\xff')",
            "`tide.regex.new`: `pattern` is not UTF-8 at its byte 1",
        ),
        (
            "tide.regex.new('a').test('a')",
            "`regex:test` is a method of a regular expression, as `regex:test(text)`; it got a string",
        ),
        (
            "tide.regex.new('a'):test(1)",
            "`regex:test` takes `text` as a string, not a number",
        ),
        (
            "tide.regex.new('a'):tset('a')",
            "`regex` has no field `tset`, did you mean `test`?",
        ),
        (
            "tide.regex.new('a'):replace('a', '$1')",
            "`regex:replace`: `with` has `${1}`, but the pattern has no such group; write `$$` for a `$`",
        ),
        (
            "tide.regex.new('a'):replace('a', 1)",
            "`regex:replace` takes `with` as a string, not a number",
        ),
        (
            "tide.regex.new('a'):replace('a', function() return 1 end)",
            "`regex:replace`: the function returned a number, not a string, or nil to keep the match",
        ),
        (
            "tide.regex.new('a'):split('a', 0)",
            "`regex:split`: `limit` is 0, not an integer from 1 on",
        ),
        (
            "tide.regex.new('a'):gmatch()",
            "`regex:gmatch` takes `text` as a string, not nil",
        ),
    ] {
        let message = fails(&format!("return {code}")).message;
        assert!(message.ends_with(expected), "{code}: {message}");
    }
}

/// Code that reaches into a regular expression finds nothing to break.
#[test]
fn what_is_no_regular_expression_is_refused() {
    passes(
        r#"
        local r = tide.regex.new("a")
        assert(getmetatable(r) == false)
        for _, other in ipairs{ io.stdout, ctx, {}, "a", 1, tide.null } do
          local ok, err = pcall(r.test, other, "a")
          assert(not ok and tostring(err):find("is a method of a regular expression"), tostring(err))
        end
        local meta = debug.getmetatable(r)
        debug.setuservalue(r, nil, 1)
        assert(r:test("a"))
        for i = 1, 200 do tide.regex.new("x" .. i) end
        r:test("a")
        collectgarbage()
        "#,
    );
}
