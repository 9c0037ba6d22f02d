//! `tide.kafka` and `tide.error`, with producers that only note what they are given.

use std::sync::Mutex;

use smallvec::smallvec;

use crate::config::Producer;
use crate::lua::ProducerSource;
use crate::lua::tests::*;
use crate::message::Outgoing;
use crate::wait::send::{
    Acknowledgements, Acks, Compression, Coordinates, Emission, Emitted, Failed, Fate, Few,
    Request, Senders, Sending, Troubled,
};
use crate::wait::{Cancel, Fault};

mod batches;
mod emits;
mod traces;

/// The answer to each request.
type Answers = fn(&Request) -> Result<Vec<Coordinates>, Failed>;

#[derive(Debug)]
struct Noting {
    requests: Mutex<Vec<Request>>,
    answers: Answers,
}

#[derive(Debug)]
struct Source(Arc<Noting>);

#[derive(Debug)]
struct Set(Arc<Noting>);

impl ProducerSource for Source {
    fn open(&self, _: &Arc<Config>) -> Arc<dyn Senders> {
        Arc::new(Set(self.0.clone()))
    }
}

impl Senders for Set {
    fn fit(&self, _: &[Request]) -> bool {
        true
    }

    fn look_at_topics(&self, _: &[Request], _: Troubled) -> Emission {
        Box::pin(async { Ok(()) })
    }

    fn may_emit(&self, _: &Request) -> Result<(), Fault> {
        Ok(())
    }

    fn emit_now(&self, _: &Arc<Emitted>, _: u64, _: &Arc<dyn Acknowledgements>) -> bool {
        false
    }

    fn flush(&self) {}

    fn take_back(&self) {}

    fn emit(&self, requests: Few<Request>, _: Troubled) -> Emission {
        self.0.requests.lock().unwrap().extend(requests);
        Box::pin(async { Ok(()) })
    }

    fn send(&self, request: Request) -> Result<Sending, Fault> {
        let answer = (self.0.answers)(&request);
        self.0.requests.lock().unwrap().push(request);
        Ok(Box::pin(async move { answer }))
    }
}

#[expect(clippy::unnecessary_wraps, reason = "one of the `Answers`")]
fn written(request: &Request) -> Result<Vec<Coordinates>, Failed> {
    let places = (0..)
        .zip(&request.records)
        .map(|(index, record)| Coordinates {
            partition: record.partition.unwrap_or(7),
            offset: Some(100 + index),
            timestamp_ms: Some(5),
        });
    Ok(places.collect())
}

/// The first record is written, the second refused, and nothing is known of the others.
fn mixed(request: &Request) -> Result<Vec<Coordinates>, Failed> {
    let fate = |index| match index {
        0 => Fate::Written(Coordinates {
            partition: 0,
            offset: Some(3),
            timestamp_ms: None,
        }),
        1 => Fate::Failed(Fault::new("tooLarge", "too large")),
        _ => Fate::Unknown,
    };
    Err(Failed {
        kind: "tooLarge",
        message: "`tide.kafka.send`: too large".to_owned(),
        results: (0..request.records.len()).map(fate).collect(),
    })
}

/// Runs `body` to its end, each send answered at once.
fn run(body: &str, answers: Answers) -> (Step, Vec<Request>) {
    run_setup(&handler(body), answers)
}

fn run_setup(setup: &Setup, answers: Answers) -> (Step, Vec<Request>) {
    run_message(setup, &OwnedRecord::default(), answers)
}

fn run_message(setup: &Setup, message: &OwnedRecord, answers: Answers) -> (Step, Vec<Request>) {
    let noting = Arc::new(Noting {
        requests: Mutex::default(),
        answers,
    });
    let app = Arc::new(App::default().with_producers(Arc::new(Source(noting.clone()))));
    let mut f = setup
        .build_with(&app)
        .unwrap_or_else(|error| panic!("{error}"));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let mut step = f.call(message);
    while let Step::Waits(id, waits) = step {
        let mut begun = waits.begun.into_iter();
        let (Some((wait, Wait::Outside(job))), None) = (begun.next(), begun.next()) else {
            panic!("another wait than one send");
        };
        let (_cancel, told) = Cancel::new();
        let answer = Answer::Outside(runtime.block_on((job.start)(told)));
        step = f.vm.resume(&f.pulse, id, wait, answer);
    }
    drop(f);
    let requests = std::mem::take(&mut *noting.requests.lock().unwrap());
    (step, requests)
}

#[track_caller]
fn sent(body: &str) -> Vec<Request> {
    match run(body, written) {
        (Step::Done, requests) => requests,
        (step, _) => panic!("{step:?}"),
    }
}

/// The error of a call that sends nothing.
#[track_caller]
fn refused(call: &str) -> String {
    let body = format!(
        "local ok, err = pcall(function() {call} end)
         assert(not ok and tide.error.is(err, 'invalid'), tostring(err))
         error(err.message, 0)"
    );
    let (step, requests) = run(&body, written);
    assert!(requests.is_empty(), "{call}");
    failure(step).message
}

#[test]
fn send_of_one_flat_record_returns_its_place() {
    let requests = sent(
        "local place = tide.kafka.send{
            topic = 'out', value = 'a\\0b', key = 'k', partition = 3, timestamp = 1700000000123,
            headers = { trace = '1', many = { 'x', 'y' }, none = tide.null },
            acks = 1, compression = 'lz4', timeout = '2s',
         }
         assert(place.topic == 'out' and place.partition == 3 and place.offset == 100 and place.timestamp == 5)",
    );
    let header = |name: &str, value: Option<&str>| (name.into(), value.map(Into::into));
    let expected = Request {
        function: "tide.kafka.send",
        producer: None,
        records: smallvec![Outgoing {
            topic: "out".into(),
            partition: Some(3),
            key: Some(b"k".to_vec()),
            value: Some(b"a\0b".to_vec()),
            headers: vec![
                header("many", Some("x")),
                header("many", Some("y")),
                header("none", None),
                header("trace", Some("1")),
            ],
            timestamp_ms: Some(1_700_000_000_123),
        }],
        acks: Some(Acks::Leader),
        compression: Some(Compression::Lz4),
        timeout: Some(Duration::from_secs(2)),
        listener: Some(0),
    };
    assert_eq!(requests, [expected]);
}

#[test]
fn send_of_messages_returns_a_list_in_their_order() {
    let requests = sent(
        "local places = tide.kafka.send{ topic = 'out', messages = { { value = 'a' }, { value = 'b', partition = 1 } } }
         assert(#places == 2 and places[1].offset == 100 and places[2].offset == 101)
         assert(places[1].partition == 7 and places[2].partition == 1)
         assert(#tide.kafka.send{ topic = 'out', messages = {} } == 0)",
    );
    let values = requests[0].records.iter().map(|one| one.value.clone());
    assert_eq!(
        values.collect::<Vec<_>>(),
        [Some(b"a".to_vec()), Some(b"b".to_vec())]
    );
    assert!(requests[1].records.is_empty());
}

#[test]
fn send_batch_sends_to_several_topics() {
    let requests = sent(
        "local places = tide.kafka.sendBatch{ acks = -1, topicMessages = {
            { topic = 'a', messages = { { value = '1' }, { value = '2' } } },
            { topic = 'b', messages = { { value = '3' } } },
         } }
         assert(#places == 3 and places[2].topic == 'a' and places[3].topic == 'b' and places[3].offset == 102)",
    );
    let topics = requests[0].records.iter().map(|one| &*one.topic);
    assert_eq!(topics.collect::<Vec<_>>(), ["a", "a", "b"]);
    assert_eq!(requests[0].acks, Some(Acks::All));
}

#[test]
fn null_is_a_tombstone_and_a_message_is_forwarded_as_it_is() {
    let requests = sent(
        "assert(tide.null == tide.json.null and tostring(tide.null) == 'null')
         tide.kafka.send{ topic = 'out', value = message.value or tide.null, key = message.key,
            headers = message.headers, timestamp = message.timestamp }",
    );
    assert_eq!(requests[0].records[0].value, None);
    assert_eq!(requests[0].records[0].key, None);
}

#[test]
fn a_value_that_is_no_string_names_what_makes_one() {
    for (value, found) in [
        ("1", "an integer"),
        ("true", "a boolean"),
        ("{ a = 1 }", "a table"),
        ("1.5", "a number"),
    ] {
        let error = refused(&format!(
            "tide.kafka.send{{ topic = 't', value = {value} }}"
        ));
        assert_eq!(
            error,
            format!(
                "handlers/h.lua:2: `tide.kafka.send`: `value` is {found}, not a string; `tide.json.encode` makes a \
                 string of it"
            )
        );
    }
    let error = refused("tide.kafka.send{ topic = 't' }");
    assert!(error.contains("`value` is missing; `tide.null`"), "{error}");
    let error =
        refused("tide.kafka.send{ topic = 't', messages = { { value = 'a' }, { key = 'k' } } }");
    assert!(
        error.contains("`tide.kafka.send`: message 2: `value` is missing"),
        "{error}"
    );
}

#[test]
fn an_unknown_option_names_the_nearest_one() {
    for (call, expected) in [
        (
            "tide.kafka.send{ topic = 't', value = 'v', timeOut = 5 }",
            "`tide.kafka.send` knows no option `timeOut`, did you mean `timeout`?",
        ),
        (
            "tide.kafka.send{ topic = 't', messages = { { value = 'v', keys = 'k' } } }",
            "`tide.kafka.send`: message 1 knows no option `keys`, did you mean `key`?",
        ),
        (
            "tide.kafka.sendBatch{ topicMessage = {} }",
            "knows no option `topicMessage`, did you mean `topicMessages`?",
        ),
        (
            "tide.kafka.sendBatch{}",
            "`topicMessages` is nil, not a list",
        ),
        (
            "tide.kafka.send{ topic = 't', vlaue = 'v' }",
            "`tide.kafka.send` knows no option `vlaue`, did you mean `value`?",
        ),
        (
            "tide.kafka.sendBatch{ topicMessages = {}, ack = 1 }",
            "knows no option `ack`, did you mean `acks`?",
        ),
        (
            "tide.kafka.send()",
            "`tide.kafka.send` takes a table of options, not nil",
        ),
    ] {
        let error = refused(call);
        assert!(error.contains(expected), "{call}: {error}");
    }
}

#[test]
fn an_option_that_is_wrong_says_what_is_right() {
    for (options, expected) in [
        (
            "topic = 'a b', value = 'v'",
            "`topic` is \"a b\", not a valid name",
        ),
        ("value = 'v'", "`topic` is missing"),
        ("topic = 't', value = 'v', acks = 2", "`acks` is 2, not -1"),
        (
            "topic = 't', value = 'v', acks = 'all'",
            "`acks` is \"all\", not -1",
        ),
        (
            "topic = 't', value = 'v', compression = 'br'",
            "`compression` is \"br\", not one of \"none\", \"gzip\"",
        ),
        (
            "topic = 't', value = 'v', timeout = 0",
            "`timeout` is 0, not milliseconds",
        ),
        (
            "topic = 't', value = 'v', key = 5",
            "`key` is an integer, not a string; `tostring`",
        ),
        (
            "topic = 't', value = 'v', partition = -1",
            "`partition` is -1, not an integer from 0",
        ),
        (
            "topic = 't', value = 'v', partition = 1.5",
            "`partition` is 1.5",
        ),
        (
            "topic = 't', value = 'v', timestamp = 'x'",
            "`timestamp` is \"x\", not milliseconds",
        ),
        (
            "topic = 't', value = 'v', headers = 'h'",
            "`headers` is a string, not a table",
        ),
        (
            "topic = 't', value = 'v', headers = { a = 1 }",
            "header `a` is an integer",
        ),
        (
            "topic = 't', value = 'v', headers = { 'a' }",
            "`headers` has an integer as a name",
        ),
        (
            "topic = 't', messages = 'v'",
            "`messages` is a string, not a list of tables",
        ),
        (
            "topic = 't', messages = { [2] = {} }",
            "`messages` is a list with a hole",
        ),
        (
            "topic = 't', messages = {}, value = 'v'",
            "`value` stands beside `messages`",
        ),
        (
            "topic = 't', value = function() end",
            "`tide.kafka.send` takes plain data",
        ),
    ] {
        let error = refused(&format!("tide.kafka.send{{ {options} }}"));
        assert!(error.contains(expected), "{options}: {error}");
    }
}

#[test]
fn an_error_has_its_kind_and_a_result_for_each_record() {
    let (step, _) = run(
        "local ok, err = pcall(tide.kafka.send, { topic = 't', messages = {
            { value = 'a' }, { value = 'b' }, { value = 'c' },
         } })
         assert(not ok and err.kind == 'tooLarge' and tide.error.is(err, 'tooLarge'))
         assert(not tide.error.is(err, 'timeout') and not tide.error.is('tooLarge', 'tooLarge'))
         assert(not tide.error.is({ kind = 'tooLarge' }, 'tooLarge'))
         assert(tostring(err):find('`tide.kafka.send`: too large', 1, true))
         local a, b, c = table.unpack(err.results)
         assert(#err.results == 3 and a.offset == 3 and a.topic == 't' and a.timestamp == nil)
         assert(b.kind == 'tooLarge' and b.error == 'too large' and b.offset == nil and c.unknown == true)
         error(err)",
        mixed,
    );
    assert!(failure(step).message.contains("too large"));
    let error = fails("tide.error.is(nil, 'timout')").message;
    assert!(
        error.ends_with("there is no kind `timout`, did you mean `timeout`?"),
        "{error}"
    );
}

fn audit() -> Setup {
    let producer = |name: &str| Producer {
        name: name.to_owned(),
        properties: BTreeMap::new(),
        acks: Acks::All,
        is_idempotent: true,
        compression: Compression::None,
        timeout: Duration::from_secs(30),
        buffer_memory: 1 << 20,
        metadata_max_age: Duration::from_secs(300),
        is_written: true,
    };
    let mut setup = handler(
        "local audit = tide.kafka.producer('audit')
         audit.send{ topic = 'a', value = '1' }
         audit:sendBatch{ topicMessages = { { topic = 'b', messages = { { value = '2' } } } } }
         local ok, err = pcall(function() return audit.sned end)
         assert(not ok and err:find('did you mean `send`?', 1, true), err)
         ok, err = pcall(tide.kafka.producer, 'audot')
         assert(not ok and err:find('there is no producer `audot`, did you mean `audit`?', 1, true), err)
         ok, err = pcall(tide.kafka.producer)
         assert(not ok and err:find('takes the name of a producer, not nil', 1, true), err)",
    );
    setup.producers = vec![producer("default"), producer("audit")];
    setup
}

#[test]
fn a_named_producer_sends_by_a_dot_and_by_a_colon() {
    let (step, requests) = run_setup(&audit(), written);
    assert!(matches!(step, Step::Done), "{step:?}");
    let by: Vec<_> = requests.iter().map(|one| one.producer.as_deref()).collect();
    assert_eq!(by, [Some("audit"), Some("audit")]);
    assert_eq!(&*requests[1].records[0].topic, "b");
}

#[test]
fn a_send_waits_where_a_handler_may_wait() {
    let (step, requests) = run(
        "table.sort({ 2, 1 }, function() tide.kafka.send{ topic = 't', value = 'v' } end)",
        written,
    );
    assert!(
        failure(step)
            .message
            .contains("waits, which cannot be done inside a callback")
    );
    assert!(requests.is_empty());
}

#[test]
fn init_lua_sends_for_no_listener() {
    let setup = Setup::new()
        .file("h.lua", "return function() end")
        .file(
            "init.lua",
            "local tide = require 'tide'
             return function() tide.kafka.send{ topic = 't', value = 'v' } end",
        )
        .handler("h");
    let noting = Arc::new(Noting {
        requests: Mutex::default(),
        answers: written,
    });
    let app = Arc::new(App::default().with_producers(Arc::new(Source(noting.clone()))));
    let mut f = setup
        .build_with(&app)
        .unwrap_or_else(|error| panic!("{error}"));
    f.vm.start(&f.pulse).unwrap();
    let requests = noting.requests.lock().unwrap();
    assert_eq!(requests.len(), 1);
    assert_eq!(requests[0].listener, None);
}

#[test]
fn no_record_is_sent_where_no_producer_runs() {
    let failure = fails("tide.kafka.send{ topic = 't', value = 'v' }");
    assert!(
        failure.message.contains("no producer runs here"),
        "{failure:?}"
    );
}
