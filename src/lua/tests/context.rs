//! ctx, its logger, app and tide.

use crate::lua::tests::*;
use crate::wait::Wait;

#[test]
fn ctx_has_its_fields() {
    passes(
        r#"
        assert(ctx.topic == "orders" and ctx.partition == 3 and ctx.offset == 0 and ctx.attempt == 1)
        assert(ctx.message == message)
        assert(math.type(ctx.startTime) == "integer" and tide.now() - ctx.startTime < 60000)
        ctx.requestContext.a = 1
        assert(ctx.requestContext.a == 1)
        ctx.setAttr("a", 1) ctx:setAttr("b", { 2 })
        assert(ctx.getAttr("a") == 1 and ctx:getAttr("b")[1] == 2 and ctx.getAttr("c") == nil)
        ctx.logger.info("hello", { a = 1, f = print, n = 0/0 })
        ctx.logger:warn("hello")
        ctx.getLogger("mine").error("hello", { 1, 2 })
        ctx:getLogger("mine"):debug(nil)
        print("a", 1, nil, {})
        "#,
    );
}

/// A handler that cannot look at its ctx costs none, and whatever can has one.
#[test]
fn a_ctx_is_made_for_who_can_see_it() {
    let seen = |handler: &str, sees_ctx: bool| {
        let file = format!("local function see(ctx) assert(ctx.attempt == 1) end return {handler}");
        let mut f = Setup::new().file("h.lua", &file).handler("h").build();
        assert_eq!(
            f.vm.shared.handlers.borrow()[0].sees_ctx,
            sees_ctx,
            "{handler}"
        );
        assert!(matches!(f.run(), Step::Done), "{handler}");
    };
    seen("function() end", false);
    seen("function(message) assert(message.offset == 0) end", false);
    seen("function(_, ctx) see(ctx) end", true);
    seen(
        "function(_, ctx, none) see(ctx) assert(none == nil) end",
        true,
    );
    seen(
        "function(...) assert(select('#', ...) == 2) see((select(2, ...))) end",
        true,
    );
    seen(
        "function(_, ...) assert(select('#', ...) == 1) see(...) end",
        true,
    );
    // A function in C.
    seen("coroutine.wrap(function(_, ctx) see(ctx) end)", true);
}

#[test]
fn every_call_has_a_request_context_of_its_own() {
    let body = "assert(ctx.requestContext.a == nil and ctx.getAttr('a') == nil) ctx.requestContext.a = 1 ctx.setAttr('a', 1)";
    let mut f = handler(body).build();
    for _ in 0..3 {
        assert!(matches!(f.run(), Step::Done));
    }
}

#[test]
fn every_call_has_its_own_topic_whatever_ran_meanwhile() {
    let body = r#"
        local topic = message.topic
        message.topic = nil
        assert(ctx.topic == topic)
        ctx.logger.info("hello")
        tide.sleep(1)
        collectgarbage()
        assert(ctx.topic == topic and topic == message.value)
        message.topic = "none"
        assert(ctx.topic == topic)
    "#;
    let mut f = handler(body).build();
    let mut waiting = Vec::new();
    for topic in ["a", "b", "a", "c", "b", "a"] {
        // Not the same `Arc`, as after a new assignment.
        f.topic = topic.into();
        let record = OwnedRecord {
            value: Some(topic.as_bytes().into()),
            ..OwnedRecord::default()
        };
        let Step::Waits(id, _) = f.call(&record) else {
            panic!()
        };
        waiting.push(id);
    }
    for id in waiting {
        assert!(matches!(f.resume(id, Answer::Slept), Step::Done));
    }
}

#[test]
fn an_unknown_field_names_the_nearest() {
    for (body, message) in [
        (
            "return ctx.commitOffset",
            "`ctx` has no field `commitOffset`, did you mean `commitOffsets`?",
        ),
        (
            "return ctx.logger.warning('x')",
            "`logger` has no field `warning`, did you mean `warn`?",
        ),
        (
            "return tide.slep",
            "`tide` has no field `slep`, did you mean `sleep`?",
        ),
        (
            "return tide.json.parse",
            "`tide.json` has no field `parse`, there are `array`, `decode`, `encode`, `null`",
        ),
        (
            "return ctx.app.get",
            "`app` has no field `get`, did you mean `getAttr`?",
        ),
        (
            "return ctx[1]",
            "a field of `ctx` is named by a string, not by a number",
        ),
        (
            "ctx.x = 1",
            "`ctx` cannot be changed; keep values in `ctx.requestContext` or by `ctx.setAttr`",
        ),
    ] {
        assert_eq!(fails(body).message, format!("handlers/h.lua:2: {message}"));
    }
}

#[test]
fn offsets_are_whole_and_not_negative() {
    for (argument, offset) in [
        ("7", 7),
        ("7.0", 7),
        ("'7'", 7),
        ("message.offset + 1", 1),
        ("9223372036854775807", i64::MAX),
    ] {
        let step = handler(&format!("ctx.commitOffsets({argument})"))
            .build()
            .run();
        assert!(matches!(waits(step), (_, Wait::Commit(found)) if found == offset));
    }
    for argument in [
        "-1",
        "0/0",
        "1.5",
        "1/0",
        "'x'",
        "'-1'",
        "''",
        "'1.0'",
        "{}",
        "nil",
        "true",
        "'99999999999999999999'",
    ] {
        let message = fails(&format!("ctx.commitOffsets({argument})")).message;
        assert!(
            message.starts_with("handlers/h.lua:2: `ctx.commitOffsets` takes "),
            "{message}"
        );
    }
}

#[test]
fn a_ctx_belongs_to_its_call() {
    let body = "if kept then return kept.getAttr('a') end kept = ctx";
    let mut f = handler(body).build();
    assert!(matches!(f.run(), Step::Done));
    let message = failure(f.run()).message;
    assert!(
        message.contains("this `ctx` belongs to another call"),
        "{message}"
    );
    // Also while the first one only waits: its commit would go to the wrong partition.
    let mut f = handler("if kept then kept.commitOffsets(1) end kept = ctx tide.sleep(1)").build();
    assert!(matches!(f.run(), Step::Waits(..)));
    assert!(failure(f.run()).message.contains("belongs to another call"));
}

#[test]
fn app_is_shared_by_all_vms_and_copies() {
    let app = Arc::new(App::default());
    let mut first = handler("app_table = { n = 1, list = { 1, 2.5, 'x', true, tide.json.null } } ctx.app.setAttr('t', app_table) app_table.n = 2").build_with(&app).unwrap();
    let mut second = handler("local t = tide.app:getAttr('t') assert(t.n == 1 and #t.list == 5 and math.type(t.list[2]) == 'float' and t.list[5] == tide.json.null) t.n = 9 assert(tide.app.getAttr('t').n == 1) ctx.app:setAttr('t', nil)").build_with(&app).unwrap();
    assert!(matches!(first.run(), Step::Done));
    drop(first);
    assert!(matches!(second.run(), Step::Done));
    assert!(matches!(
        handler("assert(ctx.app.getAttr('t') == nil)")
            .build_with(&app)
            .unwrap()
            .run(),
        Step::Done
    ));
}

#[test]
fn app_takes_plain_data_only() {
    for value in [
        "print",
        "{ { print } }",
        "coroutine.create(print)",
        "(function() local t = {} t.t = t return t end)()",
    ] {
        let message = fails(&format!("ctx.app.setAttr('a', {value})")).message;
        assert!(
            message.starts_with("handlers/h.lua:2: `app.setAttr` takes plain data: "),
            "{message}"
        );
    }
}

#[test]
fn error_values_become_words() {
    for (value, message) in [
        ("'x', 0", "x"),
        ("{ message = 'from a table' }", "from a table"),
        (
            "{}",
            "an error value that is a table, with neither `message` nor `__tostring`",
        ),
        (
            "setmetatable({}, { __tostring = function() return 'from __tostring' end })",
            "from __tostring",
        ),
        (
            "setmetatable({}, { __tostring = error })",
            "an error value whose `__tostring` fails",
        ),
        ("nil", "an error value that is nil"),
        ("42", "42"),
        ("print", "an error value that is a function"),
    ] {
        assert_eq!(fails(&format!("error({value})")).message, message);
    }
}

#[derive(Clone, Default)]
struct Lines(Arc<std::sync::Mutex<Vec<u8>>>);

impl std::io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// The lines that `work` logs on this thread, as JSON.
pub(super) fn logged(work: impl FnOnce()) -> Vec<serde_json::Value> {
    let lines = Lines::default();
    let writer = lines.clone();
    let subscriber = tracing_subscriber::fmt()
        .json()
        .with_writer(move || writer.clone())
        .finish();
    tracing::subscriber::with_default(subscriber, work);
    let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
    let lines = text.lines();
    lines
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[test]
fn a_log_line_has_the_coordinates_and_the_fields() {
    let lines = logged(|| {
        let body = r#"
            ctx.logger.info("got", { id = 1888944671579078978, f = print, s = "\xff" })
            ctx:getLogger("mine"):warn("plain")
            print("a", 1, nil)
        "#;
        assert!(matches!(handler(body).build().run(), Step::Done));
    });
    let fields: Vec<_> = lines.iter().map(|line| &line["fields"]).collect();
    assert_eq!(
        lines.iter().map(|line| &line["level"]).collect::<Vec<_>>(),
        ["INFO", "WARN", "INFO"]
    );
    assert!(lines.iter().all(|line| line["target"] == "handler"));
    assert_eq!(
        (&fields[0]["listener"], &fields[0]["logger"]),
        (&"h".into(), &"h".into())
    );
    assert_eq!(
        (&fields[0]["topic"], &fields[0]["partition"]),
        (&"orders".into(), &3.into())
    );
    assert_eq!(
        (&fields[0]["offset"], &fields[0]["message"]),
        (&0.into(), &"got".into())
    );
    let own: serde_json::Value =
        serde_json::from_str(fields[0]["fields"].as_str().unwrap()).unwrap();
    assert_eq!(
        own,
        serde_json::json!({ "id": 1_888_944_671_579_078_978_i64, "f": "<a function>", "s": "\u{fffd}" })
    );
    assert_eq!(
        (&fields[1]["logger"], &fields[1]["message"]),
        (&"mine".into(), &"plain".into())
    );
    assert!(fields[1].get("fields").is_none());
    assert_eq!(fields[2]["message"], "a\t1\tnil");
}

#[test]
fn fields_within_themselves_make_a_line_that_ends() {
    passes(
        "local a, b = {}, {} a.x, a.y, b.x, b.y = a, b, a, b ctx.logger.info('cycle', a) ctx.logger.info('globals', _G) ctx.logger.info('list', { a, b, tide.json.array({ a, b }) })",
    );
}

#[test]
fn a_name_of_any_length_is_refused() {
    let failure = fails("return ctx[string.rep('x', 20 << 20)]");
    assert!(
        failure
            .message
            .starts_with("handlers/h.lua:2: `ctx` has no field `xxx"),
        "{}",
        failure.message
    );
}

#[test]
fn attributes_have_a_bound() {
    let failure = fails("local t = {} for _ = 1, 60 do t = { t, t } end ctx.app.setAttr('t', t)");
    assert!(
        failure
            .message
            .ends_with("takes plain data: more than 1000000 values"),
        "{}",
        failure.message
    );
}

/// They lie outside of the VMs, whose limit does not bound them.
#[test]
fn attributes_have_a_bound_together() {
    let app = Arc::new(App::default());
    let run = |code: &str| handler(code).build_with(&app).unwrap().run();
    let many = "for at = 1, 6 do ctx.app.setAttr('a' .. at, ('x'):rep(10 << 20)) end";
    assert!(matches!(run(many), Step::Done));
    let too_much = "ctx.app.setAttr('b', ('x'):rep(10 << 20))";
    let message = failure(run(too_much)).message;
    assert!(
        message.contains("`app.setAttr`: all attributes would have 734")
            && message.contains("at most 67108864 are allowed"),
        "{message}"
    );
    // The same text in many places is copied to each.
    let shared = "local s, t = ('x'):rep(1 << 20), {} for at = 1, 80 do t[at] = s end ctx.app.setAttr('b', t)";
    let message = failure(run(shared)).message;
    assert!(
        message.ends_with("takes plain data: more than 67108864 bytes"),
        "{message}"
    );
    let replaced =
        "for _ = 1, 20 do ctx.app.setAttr('a1', ('y'):rep(10 << 20)) end ctx.app.setAttr('a2')";
    assert!(matches!(run(replaced), Step::Done));
    assert!(matches!(run(too_much), Step::Done));
}
