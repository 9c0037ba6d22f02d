//! `tide.kv`: values, errors, counters, `update` and the page.

use std::fs;
use std::path::Path;

use super::*;
use crate::clock::{Clock, Virtual};
use crate::lua::api::tide::kv::METHODS;

#[test]
fn values_come_back_as_they_were() {
    passes(
        r"local kv = tide.kv('sessions')
        assert(kv == tide.kv('sessions'))
        local values = { 'text', 'bin\0\255', '', 7, math.mininteger, math.maxinteger, 2^53 + 1, 0.5, -0.0, true, false,
          tide.null, { 1, 2, { a = { b = 'c' } } }, {} }
        local function equal(a, b)
          if type(a) ~= 'table' then return rawequal(a, b) and math.type(a) == math.type(b) end
          for k, v in pairs(a) do if not equal(v, b[k]) then return false end end
          for k in pairs(b) do if a[k] == nil then return false end end
          return true
        end
        for index, value in ipairs(values) do
          kv:set('k' .. index, value)
          assert(equal(kv:get('k' .. index), value), index)
        end
        assert(kv.get('k1') == 'text' and kv:size() == #values)
        assert(kv:get('none') == nil)
        assert(kv:delete('k1') == true and kv:delete('k1') == false and kv:get('k1') == nil)",
    );
}

#[test]
fn a_second_vm_sees_what_the_first_one_has_set() {
    let setup = counting(
        "",
        "local kv = tide.kv('sessions')
        if message.offset == 0 then kv:set('k', { 'v' }) else assert(kv:get('k')[1] == 'v') end",
    );
    let mut crowd = Crowd::new(&setup, 2);
    crowd.start(0, 0);
    crowd.start(1, 1);
    crowd.all_done(2);
}

#[test]
fn an_entry_expires_by_the_clock() {
    let time = Virtual::at_ms(1_700_000_000_000);
    let clock = Clock::Virtual(Arc::clone(&time));
    let setup = counting(
        "",
        "local kv = tide.kv('sessions')
        if message.offset == 0 then
          kv:set('k', 1, { ttl = '10s' })
          kv:incr('n', 5, { ttl = 10000, init = 100 })
        end
        assert(kv:get('k') == (message.offset < 2 and 1 or nil))
        assert(kv:get('n') == (message.offset < 2 and 105 or nil))",
    );
    let mut crowd = Crowd::with(Arc::new(App::with_clock(clock.clone())), &setup, 1);
    let began = clock.now();
    crowd.start(0, 0);
    time.advance_to(began + Duration::from_millis(9_999));
    crowd.start(0, 1);
    time.advance_to(began + Duration::from_secs(10));
    crowd.start(0, 2);
    crowd.all_done(3);
}

#[test]
fn counters_count() {
    passes(
        "local kv = tide.kv('sessions')
        assert(kv:incr('n') == 1 and kv:incr('n', 41) == 42 and kv:incr('n', -2) == 40)
        assert(kv:incr('m', 1, { init = 1 << 53 }) == (1 << 53) + 1)
        kv:set('s', '5')
        local ok, err = pcall(kv.incr, 's')
        assert(not ok and err.kind == 'invalid')
        assert(tostring(err):find('`kv:incr` at `sessions`: the key has a string, and only an integer is counted', 1, true), tostring(err))
        kv:set('most', math.maxinteger)
        assert(not pcall(kv.incr, 'most') and kv:get('most') == math.maxinteger)",
    );
}

#[test]
fn an_update_runs_again_when_the_value_has_changed() {
    passes(
        "local kv = tide.kv('sessions')
        local runs = 0
        local new = kv:update('k', function(value)
          runs = runs + 1
          if runs == 1 then kv:set('k', 10) end
          return (value or 0) + 1
        end, { ttl = '1h' })
        assert(new == 11 and runs == 2 and kv:get('k') == 11)
        assert(kv:update('k', function() return nil end) == nil and kv:get('k') == nil)
        local t = kv:update('t', function(value) assert(value == nil) return { list = { 1 } } end)
        assert(kv:update('t', function(value) value.list[2] = 2 return value end).list[2] == 2)
        assert(#kv:get('t').list == 2)",
    );
    let text = error("tide.kv('sessions'):update('k', function() tide.sleep(1) end)");
    assert!(text.contains("`tide.sleep` waits"), "{text}");
    let text = error("tide.kv('sessions'):update('k', function() return print end)");
    assert_eq!(
        text,
        "handlers/h.lua:6: `kv:update`: the function returns plain data: a function cannot be copied"
    );
    let text = error(
        "local kv, n = tide.kv('sessions'), 0
        kv:update('k', function() n = n + 1 kv:set('k', n) return 0 end)",
    );
    assert!(
        text.contains("other calls have changed the value 1000 times"),
        "{text}"
    );
}

#[test]
fn a_scan_waits_and_goes_on_behind_a_key() {
    passes(
        "local kv = tide.kv('sessions')
        for index = 1, 25 do kv:set(('user:%02d'):format(index), index) kv:set('x' .. index, 0) end
        local seen, after = {}, nil
        repeat
          local found = kv:scan{ prefix = 'user:', after = after, limit = 10 }
          for _, entry in ipairs(found) do seen[#seen + 1] = entry.value after = entry.key end
        until #found < 10
        assert(#seen == 25)
        for index = 1, 25 do assert(seen[index] == index) end
        assert(#kv:scan() == 50)",
    );
}

#[test]
fn what_is_wrong_is_told_with_its_place() {
    for (body, expected) in [
        (
            "tide.kv('session')",
            "`tide.kv`: the configuration has no table `[kv.session]`, did you mean `sessions`?",
        ),
        (
            "tide.kv(7)",
            "`tide.kv` takes the name of a store, not a number",
        ),
        (
            "tide.kv('sessions'):put('k', 1)",
            "`tide.kv` has no method `put`, there are `delete`, `get`, `incr`, `scan`, `set`, `size`, `update`",
        ),
        (
            "tide.kv('sessions'):set('k', print)",
            "`kv:set` takes plain data, argument 2: a function cannot be copied",
        ),
        (
            "tide.kv('sessions'):set('k')",
            "`kv:set`: the value is nil; `delete` removes an entry",
        ),
        (
            "tide.kv('sessions'):get()",
            "`kv:get` takes a key, which is a string, not nil",
        ),
        (
            "tide.kv('sessions'):set('k', 1, { tll = 1 })",
            "`kv:set` knows no option `tll`, did you mean `ttl`?",
        ),
        (
            "tide.kv('sessions'):update('k', 5)",
            "`kv:update` takes a function that changes the value, not a number",
        ),
    ] {
        assert_eq!(error(body), format!("handlers/h.lua:6: {expected}"));
    }
}

#[test]
fn a_full_store_names_its_bound_and_evicts_nothing() {
    let text = error(
        "local kv = tide.kv('sessions')
        local text = ('x'):rep(1000000)
        for index = 1, 300 do kv:set('k' .. index, text) end",
    );
    assert!(
        text.contains("`kv:set` at `sessions`: the store is full"),
        "{text}"
    );
    assert!(text.contains("`maxBytes` is 268435456"), "{text}");
}

#[test]
fn the_page_has_every_method_and_no_other() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/reference/lua/tide.kv.md");
    let page = fs::read_to_string(path).unwrap();
    let definitions = crate::lua::definitions();
    let mut headings = vec!["kv:update".to_owned()];
    for method in METHODS {
        let names = method.types.iter();
        let names = names.filter_map(|one| one.split_once(':'));
        let names: Vec<&str> = names.map(|(name, _)| name).collect();
        let (path, names) = (method.path, names.join(", "));
        assert!(
            page.contains(&format!("{path}({names})`")),
            "{path}({names})"
        );
        assert!(definitions.contains(&format!("---@field {} fun(self: tide.Kv", method.name)));
        headings.push(path.to_owned());
    }
    headings.sort();
    let mut written: Vec<_> = page
        .lines()
        .filter_map(|line| line.strip_prefix("## "))
        .filter(|heading| heading.starts_with("kv:"))
        .collect();
    written.sort_unstable();
    assert_eq!(written, headings);
}
