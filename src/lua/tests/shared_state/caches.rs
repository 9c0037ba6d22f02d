//! `tide.cache`: hits, single flight, old results, and the end of a cache with its file.

use super::*;
use crate::clock::{Clock, Virtual};

const HEAD: &str = "
    local calls = 0
    local get = tide.cache(function(key)
      add('runs')
      tide.sleep(1)
      return { key = key }
    end, { ttl = '60s', name = 'get' })";

#[test]
fn calls_of_several_vms_share_one_run_and_its_result() {
    let body = "
        assert(get('a').key == 'a')
        assert(get('a').key == 'a')
        if message.offset == 0 then assert(get('b').key == 'b') end";
    let mut crowd = Crowd::new(&counting(HEAD, body), 2);
    for offset in 0..100 {
        crowd.start(offset as usize % 2, offset);
    }
    crowd.run();
    crowd.all_done(100);
    assert_eq!(crowd.count("runs"), 2);
    let caches = crowd.app.state.caches();
    assert_eq!(caches.len(), 1);
    let counts = caches[0].counts();
    assert_eq!((counts.entries, counts.hits, counts.misses), (2, 100, 101));
}

#[test]
fn arguments_are_told_apart() {
    passes(
        "local runs = 0
        local get = tide.cache(function(...) runs = runs + 1 return runs end, { ttl = '60s' })
        local calls = { { 1 }, { '1' }, { 1.5 }, { true }, { nil, n = 1 }, {}, { 'a', 'b' }, { 'ab' }, { 'a', nil, n = 2 } }
        for index, call in ipairs(calls) do
          assert(get(table.unpack(call, 1, call.n or #call)) == index, index)
        end
        for index, call in ipairs(calls) do
          assert(get(table.unpack(call, 1, call.n or #call)) == index, index)
        end
        assert(get(1.0) == 1)",
    );
    let text = error("tide.cache(print, { ttl = 1 })({})");
    assert_eq!(
        text,
        "handlers/h.lua:6: `tide.cache`: results are kept by arguments that are strings, numbers, booleans or nil; argument 1 is a table"
    );
}

#[test]
fn errors_are_not_kept_and_nil_is() {
    passes(
        "local runs = 0
        local get = tide.cache(function(fails)
          runs = runs + 1
          tide.sleep(1)
          if fails then error('no', 0) end
        end, { ttl = '60s' })
        assert(not pcall(get, true) and not pcall(get, true) and runs == 2)
        assert(get(false) == nil and get(false) == nil and runs == 3)",
    );
}

#[test]
fn an_old_result_serves_while_one_call_renews_it_or_the_function_fails() {
    let time = Virtual::at_ms(1_700_000_000_000);
    let clock = Clock::Virtual(Arc::clone(&time));
    let head = "
        local get = tide.cache(function()
          add('runs')
          tide.sleep(1)
          if tide.app.getAttr('fails') then error('down', 0) end
          return tide.app.getAttr('runs')
        end, { ttl = '10s', stale = '60s', name = 'get' })";
    let body = "
        if message.offset == 5 then tide.app.setAttr('fails', true) end
        add('got' .. message.offset, get())";
    let mut crowd = Crowd::with(
        Arc::new(App::with_clock(clock.clone())),
        &counting(head, body),
        2,
    );
    let began = clock.now();
    let at = |seconds| time.advance_to(began + Duration::from_secs(seconds));
    crowd.start(0, 0);
    crowd.run();
    at(11);
    // The first one renews it; the others get the old one at once.
    let renews = crowd.start(0, 1);
    assert!(renews.is_some());
    assert!(crowd.start(1, 2).is_none() && crowd.start(0, 3).is_none());
    crowd.run();
    assert!(crowd.start(1, 4).is_none());
    at(22);
    crowd.start(0, 5);
    crowd.run();
    // For a second after a failure nobody tries again.
    assert!(crowd.start(1, 6).is_none());
    at(24);
    assert!(crowd.start(1, 7).is_some());
    crowd.run();
    let got: Vec<_> = (0..8).map(|n| crowd.count(&format!("got{n}"))).collect();
    assert_eq!(got, [1, 2, 1, 1, 2, 2, 2, 2]);
    crowd.all_done(8);
    assert_eq!(crowd.count("runs"), 4);
    // Beyond `stale` the error is the caller's.
    at(200);
    crowd.start(0, 8);
    crowd.run();
    assert_eq!(crowd.ended[8], (8, Some("down".to_owned())));
    assert_eq!(crowd.leases(), 0);
}

#[test]
fn a_leader_that_fails_or_is_given_up_lets_the_next_lead() {
    let head = "
        local get = tide.cache(function()
          add('runs')
          tide.sleep(1)
          if tide.app.getAttr('runs') < 3 then error('no', 0) end
          return 1
        end, { ttl = '60s' })";
    let mut crowd = Crowd::new(&counting(head, "get() add('done')"), 2);
    let leader = crowd.start(0, 0).unwrap();
    for offset in 1..10 {
        crowd.start(offset as usize % 2, offset);
    }
    crowd.cancel(0, leader);
    crowd.run();
    assert_eq!((crowd.count("runs"), crowd.count("done")), (3, 8));
    assert_eq!(crowd.leases(), 0);
}

#[test]
fn a_cache_ends_with_the_content_of_its_file() {
    let setup = counting(HEAD, "assert(get('a').key == 'a')");
    let mut crowd = Crowd::new(&setup, 1);
    crowd.start(0, 0);
    crowd.run();
    // A reload that leaves the file as it is.
    let same = crowd.add(&setup);
    assert!(crowd.start(same, 1).is_none());
    let changed = counting(HEAD, "assert(get('a').key == 'a') -- changed");
    let other = crowd.add(&changed);
    assert!(crowd.start(other, 2).is_some());
    crowd.run();
    crowd.all_done(3);
    assert_eq!(crowd.count("runs"), 2);
    crowd.vms.drain(..2);
    assert_eq!(crowd.app.state.caches().len(), 1);
}

#[test]
fn what_is_wrong_is_told_with_its_place() {
    for (body, expected) in [
        (
            "tide.cache({ ttl = 1 })",
            " takes a function whose results are kept, not a table",
        ),
        (
            "tide.cache(print)",
            " takes options as a table, as `{ ttl = \"60s\" }`, not nil",
        ),
        (
            "tide.cache(print, {})",
            ": `ttl` is missing, as in `{ ttl = \"60s\" }`",
        ),
        (
            "tide.cache(print, { ttl = 1, capacity = 0 })",
            ": `capacity` is 0, not an integer from 1 to 1000000",
        ),
        (
            "tide.cache(print, { ttl = 1, size = 5 })",
            " knows no option `size`, there are `ttl`, `stale`, `capacity`, `name`",
        ),
        (
            "tide.cache(print, { ttl = 1, name = 'a' }) tide.cache(print, { ttl = 2, name = 'a' })",
            ": there is a cache `a` with other settings already; give each its `name`",
        ),
    ] {
        assert_eq!(
            error(body),
            format!("handlers/h.lua:6: `tide.cache`{expected}")
        );
    }
}
