//! `tide.http`, with a client that notes what it is to send, and answers by the path of the URL.

use std::sync::Mutex;

use crate::lua::tests::*;
use crate::lua::{BatchCall, FailureKind, HttpSource};
use crate::wait::http::{Http, Prepared, Request, Response};
use crate::wait::{Cancel, Fault};

#[derive(Debug, Default)]
struct Noting(Mutex<Vec<Request>>);

#[derive(Debug)]
struct Source(Arc<Noting>);

#[derive(Debug)]
struct Client(Arc<Noting>);

impl HttpSource for Source {
    fn open(&self, _: &Arc<Config>) -> Arc<dyn Http> {
        Arc::new(Client(self.0.clone()))
    }
}

impl Http for Client {
    fn request(&self, request: Request) -> Result<Prepared, Fault> {
        let path = request
            .url
            .rsplit('/')
            .next()
            .unwrap_or_default()
            .to_owned();
        self.0.0.lock().unwrap().push(request);
        let header = |name: &str, value: &[u8]| (name.to_owned(), value.to_vec());
        let answer = match path.as_str() {
            "away" => Err(Fault::new("unreachable", "nobody is there")),
            "busy" => return Err(Fault::new("busy", "no room")),
            path => Ok(Response {
                status: path.parse().unwrap_or(200),
                headers: vec![
                    header("content-type", b"text/plain"),
                    header("set-cookie", b"a=1"),
                    header("set-cookie", b"b=2"),
                ],
                body: if path == "json" {
                    b"{\"n\":9007199254740993}".to_vec()
                } else {
                    b"\0\xff".to_vec()
                },
            }),
        };
        Ok(Prepared {
            about: "GET a.example".to_owned(),
            requesting: Box::pin(async move { answer }),
        })
    }
}

fn app() -> (App, Arc<Noting>) {
    let noting = Arc::new(Noting::default());
    (
        App::default().with_http(Arc::new(Source(noting.clone()))),
        noting,
    )
}

/// Answers every wait of a call, the last one first where `is_reversed`.
fn serve(f: &mut Fixture, mut step: Step, is_reversed: bool) -> Step {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let mut open = Vec::new();
    while let Step::Waits(id, waits) = step {
        open.retain(|(wait, _)| !waits.given_up.contains(wait));
        open.extend(waits.begun);
        let at = if is_reversed { open.len() - 1 } else { 0 };
        let (wait, Wait::Outside(job)) = open.remove(at) else {
            panic!("another wait than a request");
        };
        let (_cancel, told) = Cancel::new();
        let answer = Answer::Outside(runtime.block_on((job.start)(told)));
        step = f.vm.resume(&f.pulse, id, wait, answer);
    }
    step
}

fn run_with(body: &str, record: &OwnedRecord, is_reversed: bool) -> (Step, Vec<Request>) {
    let (app, noting) = app();
    let mut f = handler(body)
        .build_with(&Arc::new(app))
        .unwrap_or_else(|error| panic!("{error}"));
    let step = f.call(record);
    let step = serve(&mut f, step, is_reversed);
    drop(f);
    let requests = std::mem::take(&mut *noting.0.lock().unwrap());
    (step, requests)
}

fn run(body: &str) -> (Step, Vec<Request>) {
    run_with(body, &OwnedRecord::default(), false)
}

#[track_caller]
fn done(body: &str) -> Vec<Request> {
    let (step, requests) = run(body);
    assert!(matches!(step, Step::Done), "{step:?}");
    requests
}

/// The keys of the requests.
fn keys(requests: &[Request]) -> Vec<String> {
    let keys = requests.iter().map(|one| one.header("idempotency-key"));
    keys.map(|key| String::from_utf8_lossy(key.unwrap_or(b"none")).into_owned())
        .collect()
}

#[test]
fn a_response_is_a_table_with_methods() {
    done(
        r#"local res = tide.http.get("http://a.example/x")
        assert(res.status == 200 and res.body == "\0\255")
        assert(res.headers["Content-Type"] == "text/plain" and res.headers["content-type"] == "text/plain")
        assert(res.headers["Set-Cookie"][2] == "b=2" and res.headers.other == nil and res.headers[1] == nil)
        assert(res:check() == res and rawequal(res:check(), res))
        assert(tide.http.get("http://a.example/json"):check():json().n == 9007199254740993)
        local names = {}
        for name in pairs(res.headers) do names[#names + 1] = name end
        assert(#names == 2)"#,
    );
}

#[test]
fn check_raises_from_400_on_with_the_status() {
    for (status, kind) in [
        (400, "refused"),
        (404, "notFound"),
        (409, "conflict"),
        (413, "tooLarge"),
        (429, "refused"),
        (503, "refused"),
    ] {
        done(&format!(
            "local ok, err = pcall(function() tide.http.get('http://a.example/{status}'):check() end)
             assert(not ok and tide.error.is(err, '{kind}') and err.status == {status}, tostring(err))
             assert(tostring(err):find('h.lua:2: the response has the status {status}', 1, true), tostring(err))"
        ));
    }
    done("assert(tide.http.get('http://a.example/304'):check().status == 304)");
}

#[test]
fn mistakes_are_told_with_their_place() {
    for (body, expected) in [
        (
            "tide.http.get('http://a.example/x').stauts()",
            "h.lua:2: `response` has no field `stauts`, did you mean `status`?",
        ),
        (
            "local res = tide.http.get('http://a.example/x') res.check()",
            "`check` is a method of a response, as `response:check()`; it got nil",
        ),
        ("tide.http.get('http://a.example/x'):json()", "h.lua:2: "),
        (
            "tide.http.get('http://a.example/', { timeOut = 1 })",
            "h.lua:2: `tide.http.get` knows no option `timeOut`, did you mean `timeout`?",
        ),
        (
            "tide.http.post('http://a.example/', { json = print })",
            "h.lua:2: `tide.http.post`: `json`: a function has no JSON form",
        ),
        (
            "tide.http.gett()",
            "`tide.http` has no field `gett`, did you mean `get`?",
        ),
        (
            "table.sort({1, 2}, function() tide.http.get('http://a.example/') end)",
            "inside a callback of a C function",
        ),
    ] {
        let message = failure(run(body).0).message;
        assert!(message.contains(expected), "{body}\n  {message}");
    }
}

#[test]
fn json_is_encoded_as_tide_json_does_and_the_options_stay_as_they_are() {
    let requests = done(
        "local options = { json = { n = 9007199254740993, list = tide.json.array() }, headers = { X = '1' } }
         tide.http.post('http://a.example/', options)
         assert(options.json.n == 9007199254740993)
         tide.http.request{ url = 'http://a.example/', method = 'post', json = tide.null }
         tide.http.put('http://a.example/', { json = false })",
    );
    let bodies: Vec<_> = requests
        .iter()
        .map(|one| one.body.clone().unwrap())
        .collect();
    assert!(
        bodies[0] == b"{\"n\":9007199254740993,\"list\":[]}"
            || bodies[0] == b"{\"list\":[],\"n\":9007199254740993}"
    );
    assert_eq!(bodies[1..], [b"null".to_vec(), b"false".to_vec()]);
    assert_eq!(requests[1].method, "POST");
    assert_eq!(
        requests[0].header("content-type").unwrap(),
        b"application/json"
    );
}

#[test]
fn what_changes_something_carries_the_identity_of_the_message() {
    let record = OwnedRecord {
        offset: 42,
        timestamp_ms: 1_700_000_000_000,
        ..OwnedRecord::default()
    };
    let body = "tide.http.get('http://a.example/')
        tide.http.post('http://a.example/')
        tide.http.delete('http://a.example/')
        tide.http.patch('http://a.example/', { headers = { ['Idempotency-Key'] = 'own' } })
        tide.http.put('http://a.example/')";
    let (_, requests) = run_with(body, &record, false);
    let own = |number: &str| format!("g/h/orders/3/42/1700000000000/{number}");
    assert_eq!(
        keys(&requests),
        ["none", &own("1"), &own("2"), "own", &own("3")]
    );
    let (_, again) = run_with(body, &record, false);
    assert_eq!(keys(&requests), keys(&again));
}

#[test]
fn functions_of_parallel_have_the_same_keys_in_whatever_order_they_end() {
    let body = "local function twice(url)
          return function() tide.http.post(url .. 'one') tide.http.post(url .. 'two') end
        end
        tide.http.post('http://a.example/first')
        tide.parallel{ twice('http://b.example/'), function()
          tide.parallel({ 1, 2 }, function(n) tide.http.post('http://c.example/' .. n) end)
          coroutine.wrap(function() tide.http.post('http://d.example/') end)()
        end }
        tide.http.post('http://e.example/last')";
    let by_url = |is_reversed| {
        let (step, requests) = run_with(body, &OwnedRecord::default(), is_reversed);
        assert!(matches!(step, Step::Done), "{step:?}");
        let mut pairs: Vec<_> = requests
            .iter()
            .map(|one| one.url.clone())
            .zip(keys(&requests))
            .collect();
        pairs.sort();
        pairs
    };
    let found = by_url(false);
    assert_eq!(found, by_url(true));
    let numbers: Vec<_> = found
        .iter()
        .map(|(_, key)| key.rsplit('/').next().unwrap())
        .collect();
    assert_eq!(
        numbers,
        [
            "1",
            "2.1.1",
            "2.1.2",
            "2.2.1.1.1",
            "2.2.1.2.1",
            "2.2.2",
            "3"
        ]
    );
}

#[test]
fn the_numbers_of_a_call_end_with_it() {
    let (app, noting) = app();
    let setup = handler(
        "tide.parallel{ function() end }
         if message.key == 'catch' then pcall(tide.http.post, 'http://a.example/busy') end
         tide.http.post('http://a.example/' .. message.key)",
    );
    let mut f = setup
        .build_with(&Arc::new(app))
        .unwrap_or_else(|error| panic!("{error}"));
    for key in ["200", "away", "catch", "busy"] {
        let record = OwnedRecord {
            key: Some(key.as_bytes().into()),
            ..OwnedRecord::default()
        };
        let step = f.call(&record);
        serve(&mut f, step, false);
        assert!(
            f.vm.shared.ordinals.is_empty() && !f.vm.shared.emits.get(),
            "{key}"
        );
    }
    let (call, _) = waits(f.call(&OwnedRecord {
        key: Some(b"x".as_slice().into()),
        ..OwnedRecord::default()
    }));
    assert!(!f.vm.shared.ordinals.is_empty());
    f.vm.cancel(call);
    assert!(f.vm.shared.ordinals.is_empty());
    let found = keys(&noting.0.lock().unwrap());
    let numbers: Vec<_> = found
        .iter()
        .map(|key| key.rsplit('/').next().unwrap())
        .collect();
    assert_eq!(numbers, ["2", "2", "2", "3", "2", "2"]);
}

#[test]
fn two_listeners_of_one_message_have_keys_of_their_own_and_a_batch_has_none() {
    let (app, noting) = app();
    let text = "local tide = require 'tide'
        return { one = function() tide.http.post('http://a.example/') end,
                 two = function() tide.http.post('http://a.example/') end,
                 batch = function(batch) tide.http.post('http://a.example/') end }";
    let setup = Setup::new()
        .file("h.lua", text)
        .handler("h.one")
        .handler("h.two")
        .handler("h.batch");
    let mut f = setup
        .build_with(&Arc::new(app))
        .unwrap_or_else(|error| panic!("{error}"));
    let record = OwnedRecord::default();
    for listener in [0, 1] {
        let step = f.call_listener(listener, &record);
        serve(&mut f, step, false);
    }
    let call = Call {
        listener: 2,
        topic: &f.topic.clone(),
        partition: 3,
        record: &record,
        attempt: 1,
        is_retry: false,
    };
    let batch = BatchCall {
        call,
        records: &[&record],
        high_watermark: 1,
        auto_resolve: true,
    };
    let step = f.vm.call_batch(&f.pulse, &batch);
    serve(&mut f, step, false);
    let found = keys(&noting.0.lock().unwrap());
    assert_eq!(found.len(), 3);
    assert!(
        found[0].starts_with("g/h.one/") && found[1].starts_with("g/h.two/"),
        "{found:?}"
    );
    assert_eq!(found[2], "none");
}

#[test]
fn an_uncaught_error_of_what_is_away_is_told_apart() {
    for (body, expected) in [
        ("tide.http.get('http://a.example/away')", FailureKind::Away),
        ("tide.http.get('http://a.example/busy')", FailureKind::Away),
        (
            "return nil, select(2, pcall(tide.http.get, 'http://a.example/away'))",
            FailureKind::Away,
        ),
        (
            "local ok, err = pcall(tide.http.get, 'http://a.example/away') error(err)",
            FailureKind::Away,
        ),
        (
            "tide.parallel{ function() tide.http.get('http://a.example/away') end }",
            FailureKind::Away,
        ),
        (
            "local ok, err = pcall(tide.http.get, 'http://a.example/away') error(tostring(err))",
            FailureKind::Raised,
        ),
        (
            "tide.http.get('http://a.example/503'):check()",
            FailureKind::Raised,
        ),
        (
            "error({ kind = 'unreachable', message = 'my own' })",
            FailureKind::Raised,
        ),
        (
            "return nil, { kind = 'unreachable', message = 'my own' }",
            FailureKind::Returned,
        ),
    ] {
        let failure = failure(run(body).0);
        assert_eq!(failure.kind, expected, "{body}: {}", failure.message);
    }
}

#[test]
fn without_a_client_a_request_is_closed() {
    let failure = fails("tide.http.get('http://a.example/')");
    assert!(
        failure.message.contains("no client runs here"),
        "{}",
        failure.message
    );
}

#[test]
fn a_response_that_the_vm_has_no_room_for_is_out_of_memory() {
    let (app, _) = app();
    let mut setup = handler("tide.http.get('http://a.example/x')");
    setup.memory = 8 << 20;
    let mut f = setup
        .build_with(&Arc::new(app))
        .unwrap_or_else(|error| panic!("{error}"));
    let step = f.run();
    let Step::Waits(id, waits) = step else {
        panic!("{step:?}");
    };
    let (wait, _) = waits.begun.into_iter().next().unwrap();
    let text = |text: &str| crate::wait::Value::Bytes(text.as_bytes().into());
    let large = crate::wait::Value::Table(vec![(
        text("body"),
        crate::wait::Value::Bytes(vec![b'x'; 16 << 20].into()),
    )]);
    let step = f.vm.resume(&f.pulse, id, wait, Answer::Outside(Ok(large)));
    assert_eq!(failure(step).kind, FailureKind::Memory);
}
