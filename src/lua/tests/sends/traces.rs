//! The trace that records carry on from the message of the handler that sends them.

use super::*;
use crate::message::Header;

/// The trace headers of each record that a handler of a traced message sends.
#[track_caller]
fn traces(body: &str) -> Vec<String> {
    let header = |name: &[u8], value: &[u8]| (name.into(), Some(value.into()));
    let message = OwnedRecord {
        headers: vec![
            header(b"traceparent", b"p"),
            header(b"baggage", b"b1"),
            header(b"baggage", b"b2"),
            header(b"other", b"o"),
        ],
        ..OwnedRecord::default()
    };
    let (step, requests) = run_message(&handler(body), &message, written);
    assert!(matches!(step, Step::Done), "{step:?}");
    let records = requests.iter().flat_map(|request| &request.records);
    let text = |(name, value): &Header| {
        let value = value.as_deref().unwrap_or_default();
        format!("{}={}", name.escape_ascii(), value.escape_ascii())
    };
    let shown = records.map(|record| record.headers.iter().map(text).collect::<Vec<_>>());
    shown.map(|headers| headers.join(" ")).collect()
}

#[test]
fn records_carry_the_trace_of_the_message_on() {
    let all = "traceparent=p baggage=b1 baggage=b2";
    let send = "tide.kafka.send{ topic = 't', value = 'v' }";
    assert_eq!(traces(send), [all]);
    assert_eq!(traces(&format!("message = nil; {send}")), [all]);
    assert_eq!(
        traces(&format!("coroutine.wrap(function() {send} end)()")),
        [all]
    );
    assert_eq!(
        traces(&format!("tide.parallel({{ 1 }}, function() {send} end)")),
        [all]
    );
    let deep = format!(
        "local function down(n) if n > 0 then return 1 + down(n - 1) end {send} return 0 end down(150)"
    );
    assert_eq!(traces(&deep), [all]);
    // The second send follows an answer to the first one.
    assert_eq!(traces(&format!("{send} {send}")), [all, all]);
    let two = "tide.kafka.send{ topic = 't', messages = {
        { value = '1', headers = { traceparent = 'own' } }, { value = '2', headers = { a = '1' } } } }";
    let own = "traceparent=own baggage=b1 baggage=b2".to_owned();
    assert_eq!(traces(two), [own, format!("a=1 {all}")]);
}

#[test]
fn records_have_no_trace_without_one_of_the_message() {
    let all = "tide.kafka.send{ topic = 't', value = 'v' } message.headers = 7
        tide.kafka.send{ topic = 't', value = 'v', headers = { a = '1' } }";
    let requests = sent(all);
    let headers = requests
        .iter()
        .map(|request| request.records[0].headers.len());
    assert_eq!(headers.collect::<Vec<_>>(), [0, 1]);
}
