//! `tide.limit`: what is taken is given back, however a call ends.

use super::*;

#[test]
fn so_many_run_at_once_over_all_vms() {
    let head = "local limit = tide.limit('api', { concurrency = 3 })";
    let body = "
        local a, b = limit:run(function(x, y)
          add('running')
          assert(tide.app.getAttr('running') <= 3)
          tide.sleep(1)
          add('running', -1)
          return x + y, 'b'
        end, 1, 2)
        assert(a == 3 and b == 'b')
        add('done')";
    let mut crowd = Crowd::new(&counting(head, body), 2);
    for offset in 0..60 {
        crowd.start(offset as usize % 2, offset);
    }
    assert_eq!(crowd.sleeps.len(), 3);
    crowd.run();
    crowd.all_done(60);
    assert_eq!((crowd.count("running"), crowd.count("done")), (0, 60));
}

#[test]
fn what_is_taken_is_given_back_by_every_end() {
    let head = "local limit = tide.limit('api', { concurrency = 1 })";
    let body = "
        if message.offset == 0 then
          assert(not pcall(limit.run, function() error('no') end))
          coroutine.close((function()
            local co = coroutine.create(function() limit:run(coroutine.yield) end)
            coroutine.resume(co)
            return co
          end)())
          limit:run(function() end)
          limit:run(function() tide.sleep(1) end)
        end
        limit.run(tide.sleep, 1)
        add('done')";
    let mut crowd = Crowd::new(&counting(head, body), 2);
    crowd.start(0, 0);
    crowd.run();
    crowd.all_done(1);
    let holds = crowd.start(0, 1).unwrap();
    let waits = crowd.start(1, 2).unwrap();
    crowd.start(1, 3);
    crowd.cancel(1, waits);
    crowd.cancel(0, holds);
    crowd.run();
    crowd.all_done(2);
    assert_eq!(crowd.count("done"), 2);
}

#[test]
fn a_rate_lets_through_what_it_allows() {
    let head = "local limit = tide.limit('api', { rate = '200/1s' })";
    let mut crowd = Crowd::new(&counting(head, "limit:take() limit:take(2)"), 2);
    let began = std::time::Instant::now();
    for offset in 0..10 {
        crowd.start(offset as usize % 2, offset);
    }
    crowd.run();
    crowd.all_done(10);
    // Thirty, of which eleven may come early.
    assert!(began.elapsed() >= Duration::from_millis(80));
}

#[test]
fn a_limit_is_made_once_and_named_afterwards() {
    passes(
        "local one = tide.limit('api', { rate = '5/m', concurrency = 2 })
        assert(one == tide.limit('api') and one == tide.limit('api', { rate = '5/1m', concurrency = 2 }))",
    );
    for (body, expected) in [
        (
            "tide.limit('api')",
            ": there is no limit `api` yet; make it with options, as `{ rate = \"100/1s\", concurrency = 8 }`",
        ),
        (
            "tide.limit('api', {})",
            ": `rate` and `concurrency` are missing; one of them is needed, as in `{ rate = \"100/1s\", concurrency = 8 }`",
        ),
        (
            "tide.limit('api', { rate = 100 })",
            ": `rate` is 100, not a number and a time such as \"100/1s\", \"5/m\" or \"1000/1h\"",
        ),
        (
            "tide.limit('api', { rate = '5/m' }) tide.limit('api', { rate = '6/m' })",
            ": handlers/h.lua:6 has made the limit `api` with other settings; leave the options out here, or take another name",
        ),
    ] {
        assert_eq!(
            error(body),
            format!("handlers/h.lua:6: `tide.limit`{expected}")
        );
    }
    let text = error("tide.limit('api', { concurrency = 2 }):take()");
    assert!(
        text.contains("`limit:run` gives back what it takes"),
        "{text}"
    );
    let text = error("tide.limit('api', { rate = '5/m' }):take(6)");
    assert!(
        text.contains("an integer from 1 to 5, the rate of the limit, not 6"),
        "{text}"
    );
    let text = error("tide.limit('api', { rate = '5/m' }):run(5)");
    assert!(
        text.contains("`limit:run` takes a function to run, not a number"),
        "{text}"
    );
}

#[test]
fn a_wait_has_its_time() {
    let head = "local limit = tide.limit('api', { concurrency = 1, timeout = '20ms' })";
    let body = "
        if message.offset == 0 then limit:run(function() tide.sleep(1) end) return end
        local ok, err = pcall(limit.run, print)
        assert(not ok and err.kind == 'busy', err)
        assert(tostring(err):find('limit `api`: nothing became free within 20ms', 1, true), tostring(err))";
    let mut crowd = Crowd::new(&counting(head, body), 1);
    crowd.start(0, 0);
    let sleep = crowd.sleeps.pop_front().unwrap();
    crowd.start(0, 1);
    assert!(crowd.step(), "the second one gives up");
    crowd.sleeps.push_back(sleep);
    crowd.run();
    crowd.all_done(2);
}
