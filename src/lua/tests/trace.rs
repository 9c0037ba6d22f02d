//! `ctx.trace`: what a handler sees of the trace context in the headers of its message.

use crate::lua::tests::*;

const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

#[track_caller]
fn check(headers: &[(&str, Option<&str>)], body: &str) {
    let bytes = |text: &str| text.as_bytes().into();
    let record = OwnedRecord {
        headers: headers
            .iter()
            .map(|(name, value)| (bytes(name), value.map(bytes)))
            .collect(),
        ..OwnedRecord::default()
    };
    passes_with(body, &record);
}

#[test]
fn a_message_without_a_trace_context_has_an_empty_table() {
    check(
        &[("a", Some("1"))],
        "assert(type(ctx.trace) == 'table' and next(ctx.trace) == nil)",
    );
}

#[test]
fn the_table_has_the_three_headers() {
    check(
        &[
            ("traceparent", Some(PARENT)),
            ("tracestate", Some("vendor=1")),
            ("baggage", Some("user=\u{e9}")),
            ("a", Some("1")),
        ],
        "local trace = ctx.trace
         assert(trace.traceparent == message.headers.traceparent and #trace.traceparent == 55)
         assert(trace.tracestate == 'vendor=1' and trace.baggage == 'user=\u{e9}')
         local names = 0 for _ in pairs(trace) do names = names + 1 end
         assert(names == 3)",
    );
}

#[test]
fn an_invalid_traceparent_counts_as_none_and_its_state_too() {
    let invalid = PARENT.replacen("00", "ff", 1);
    for parents in [
        &[][..],
        &[("traceparent", None)],
        &[("traceparent", Some("x"))],
        &[("traceparent", Some(&*invalid))],
        &[("traceparent", Some(PARENT)), ("traceparent", Some(PARENT))],
    ] {
        let others = [("tracestate", Some("vendor=1")), ("baggage", Some("a=1"))];
        check(
            &[parents, &others].concat(),
            "assert(ctx.trace.traceparent == nil and ctx.trace.tracestate == nil)
             assert(ctx.trace.baggage == 'a=1')",
        );
    }
}

#[test]
fn values_of_a_repeated_header_are_one_list() {
    check(
        &[
            ("traceparent", Some(PARENT)),
            ("tracestate", Some("a=1")),
            ("tracestate", None),
            ("tracestate", Some("b=2")),
            ("baggage", None),
        ],
        "assert(ctx.trace.tracestate == 'a=1,b=2' and ctx.trace.baggage == nil)",
    );
}

#[test]
fn the_table_belongs_to_the_call() {
    check(
        &[("traceparent", Some(PARENT))],
        "local trace = ctx.trace
         trace.mine = 1
         message.headers = nil
         collectgarbage()
         assert(rawequal(ctx.trace, trace) and ctx.trace.mine == 1 and ctx.trace.traceparent)",
    );
}

#[test]
fn a_handler_that_has_changed_its_message_breaks_nothing() {
    for change in [
        "message.headers = nil",
        "message.headers = 'x'",
        "message.headers = setmetatable({}, { __index = error })",
        "message.headers.traceparent = { {}, 7 } message.headers.baggage = { {}, 7 }",
    ] {
        let body = format!(
            "{change}
             assert(next(ctx.trace) == nil)
             ctx.logger.info('still there')"
        );
        check(&[("traceparent", Some(PARENT))], &body);
    }
}
