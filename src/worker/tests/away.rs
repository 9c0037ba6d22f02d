//! Infrastructure that is away is not the message's fault.

use super::*;

/// Without a client, `tide.http` is away: its error is `closed`.
const HANDLER: &str = "local tide = require 'tide'
    local runs = 0
    return function(message, ctx)
        runs = runs + 1
        tide.app.setAttr('attempts', (tide.app.getAttr('attempts') or '') .. ctx.attempt)
        if runs <= tonumber(message.value) then tide.http.get('http://a.example/') end
        if message.value == '2' then error('and now its own') end
    end";

fn attempts(f: &Fixture) -> String {
    let value = f.worker.app.get(b"attempts");
    value
        .and_then(|value| value.text().map(str::to_owned))
        .unwrap_or_default()
}

#[test]
fn a_message_waits_for_infrastructure_without_an_attempt_lost() {
    let listener = "onError = 'skip'\nretry = { attempts = 1, initialDelay = 100, jitter = 0.0 }";
    let mut f = Fixture::new(listener, HANDLER);
    f.send(&["5"]);
    // 100, 200, 400, 800 and 1600 ms.
    assert_eq!(f.finish(), Duration::from_millis(3_100));
    assert_eq!(attempts(&f), "111111");
}

#[test]
fn the_message_blocks_its_lane_in_the_status_meanwhile() {
    let mut f = Fixture::new("retry = { initialDelay = 100, jitter = 0.0 }", HANDLER);
    f.send(&["3"]);
    f.pass(Duration::from_millis(50));
    let blocked = f.partition.blocked().expect("it blocks its lane");
    assert_eq!(blocked.attempt, 0);
    assert!(
        blocked.error.contains("no client runs here"),
        "{}",
        blocked.error
    );
    f.finish();
    assert!(f.partition.blocked().is_none());
}

#[test]
fn a_failure_of_its_own_counts_as_ever() {
    let listener = "onError = 'skip'\nretry = { attempts = 2, initialDelay = 100, jitter = 0.0 }";
    let mut f = Fixture::new(listener, HANDLER);
    f.send(&["2"]);
    // Away twice, 100 and 200 ms, and failed twice, with 100 ms between.
    assert_eq!(f.finish(), Duration::from_millis(400));
    assert_eq!(attempts(&f), "1112");
}

#[test]
fn such_an_error_counts_where_the_configuration_says_so() {
    let listener = "onError = 'skip'\n\
        retry = { attempts = 2, initialDelay = 100, jitter = 0.0, infrastructure = 'count' }";
    let mut f = Fixture::new(listener, HANDLER);
    f.send(&["9"]);
    assert_eq!(f.finish(), Duration::from_millis(100));
    assert_eq!(attempts(&f), "12");
}

#[test]
fn it_counts_for_the_breaker() {
    let listener = "maxInFlight = 100\nordering = 'none'\nretry = { initialDelay = 100, jitter = 0.0 }\n\
        breaker = { failureRatio = 0.5, window = '10s', minimumRuns = 4, pause = '30s' }";
    let mut f = Fixture::new(listener, HANDLER);
    f.send(&["8"]);
    let took = f.finish();
    assert!(took > Duration::from_secs(30), "{took:?}");
}
