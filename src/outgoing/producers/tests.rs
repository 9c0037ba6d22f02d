//! Producers against the embedded broker, and against an address at which nobody listens.

use std::net::TcpListener;
use std::time::Duration;

use smallvec::smallvec;

use super::group::Counted;
use super::*;
use crate::config::{Sources, Written};
use crate::kafka::mock::{Broker, Code};
use crate::message::Outgoing;
use crate::wait::send::{Acknowledgements, Acks, Compression, Coordinates, Failed, Fate, Run};

/// A file with these brokers, and further tables; listener `h` with further keys.
fn config(brokers: &str, listener: &str, tables: &str) -> Arc<Config> {
    let text = format!(
        "[kafkaConfig]\nbrokers = ['{brokers}']\n[consumerConfig]\ngroupId = 'g'\n[[listeners]]\ntopic = 't'\n\
         handler = 'h'\n{listener}\n{tables}\n"
    );
    let sources: Sources = [("h.lua".to_owned(), [].into())].into_iter().collect();
    let written = Written::parse("/test/config.toml".as_ref(), &text, &|_| None);
    Arc::new(
        written
            .config(&sources)
            .unwrap_or_else(|errors| panic!("{errors}")),
    )
}

fn producers() -> Producers {
    Producers::new(&Supervisor::without_daemon())
}

fn nobody() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().to_string()
}

fn request(topic: &str, values: &[&str]) -> Request {
    let record = |value: &&str| Outgoing {
        topic: topic.into(),
        value: Some(value.as_bytes().to_vec()),
        ..Outgoing::default()
    };
    Request {
        function: "tide.kafka.send",
        records: values.iter().map(record).collect(),
        listener: Some(0),
        ..Request::default()
    }
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(future)
}

fn send(set: &Set, request: Request) -> Result<Vec<Coordinates>, Failed> {
    let sending = set
        .send(request)
        .unwrap_or_else(|fault| panic!("{fault:?}"));
    block_on(sending)
}

#[test]
fn offsets_come_in_the_order_of_the_records() {
    let broker = Broker::start().unwrap();
    broker.create_topic("out", 1).unwrap();
    let producers = producers();
    let set = producers.open_set(&config(broker.address(), "", ""));
    let answer = send(&set, request("out", &["a", "b", "c"])).unwrap();
    let offsets: Vec<_> = answer.iter().map(|one| one.offset).collect();
    assert_eq!(offsets, [Some(0), Some(1), Some(2)]);
    assert!(answer.iter().all(|one| one.timestamp_ms.is_some()));
    producers.put_in_force(&config(broker.address(), "", ""));
    let [snapshot] = &producers.snapshots()[..] else {
        panic!("one producer");
    };
    assert_eq!((snapshot.acknowledged, snapshot.failed), (3, 0));
    assert_eq!(
        (snapshot.status.in_flight, snapshot.status.in_flight_bytes),
        (0, 0)
    );
}

/// A broker refuses a whole request for one record in it. Each record is sent again alone.
#[test]
fn the_neighbours_of_a_refused_record_are_sent_again() {
    let broker = Broker::start().unwrap();
    broker.create_topic("out", 1).unwrap();
    let producers = producers();
    let set = producers.open_set(&config(broker.address(), "", ""));
    send(&set, request("out", &["first"])).unwrap();
    broker.refuse(&[Code::MessageSizeTooLarge]);
    let answer = send(&set, request("out", &["a", "b"])).unwrap();
    assert_eq!(answer.len(), 2);
    broker.refuse(&[Code::MessageSizeTooLarge; 2]);
    let failed = send(&set, request("out", &["a"])).unwrap_err();
    assert_eq!(failed.kind, "tooLarge");
    assert!(
        failed
            .message
            .starts_with("`tide.kafka.send`: topic `out`: ")
    );
}

#[test]
fn a_broker_that_is_away_is_unreachable_and_the_record_may_still_be_written() {
    let producers = producers();
    let set = producers.open_set(&config(&nobody(), "", ""));
    let mut request = request("out", &["a", "b"]);
    request.timeout = Some(Duration::from_millis(1_500));
    let failed = send(&set, request).unwrap_err();
    assert_eq!(failed.kind, "unreachable", "{failed:?}");
    let began = Instant::now();
    assert!(producers.close(Instant::now()), "{failed:?}");
    assert!(began.elapsed() < Duration::from_secs(9));
}

#[test]
fn each_pair_of_acks_and_compression_has_a_client_and_at_most_eight_have() {
    let broker = Broker::start().unwrap();
    broker.create_topic("out", 1).unwrap();
    let producers = producers();
    let set = producers.open_set(&config(broker.address(), "", ""));
    let pairs = [Acks::All, Acks::Leader].into_iter().flat_map(|acks| {
        [
            Compression::None,
            Compression::Gzip,
            Compression::Snappy,
            Compression::Lz4,
            Compression::Zstd,
        ]
        .map(|compression| (acks, compression))
    });
    let mut refused = 0;
    for (acks, compression) in pairs {
        let mut request = request("out", &["a"]);
        (request.acks, request.compression) = (Some(acks), Some(compression));
        match send(&set, request) {
            Ok(answer) => assert!(answer[0].offset.is_some()),
            Err(failed) => {
                refused += 1;
                assert_eq!(failed.kind, "refused");
                assert!(failed.message.contains("8 pairs"), "{failed:?}");
            }
        }
    }
    assert_eq!(refused, 2);
    assert_eq!(set.groups[0].snapshot().status.clients, 8);
    let mut request = request("out", &["a"]);
    request.acks = Some(Acks::Leader);
    assert!(send(&set, request).is_ok(), "a pair that has its client");
}

#[test]
fn a_send_beyond_buffer_memory_waits_for_room() {
    let producers = producers();
    let tables = "[producerConfig]\nbufferMemory = '2MiB'\ntimeout = '3s'";
    let set = producers.open_set(&config(&nobody(), "", tables));
    let large = "x".repeat(1_500_000);
    block_on(async {
        let first = set.send(request("out", &[&large])).unwrap();
        let mut second = request("out", &[&large]);
        second.timeout = Some(Duration::from_millis(300));
        let second = set.send(second).unwrap();
        let (first, second) = tokio::join!(first, second);
        let kinds = [first.unwrap_err().kind, second.unwrap_err().kind];
        assert_eq!(kinds, ["unreachable", "busy"]);
    });
    let Err(fault) = set.send(request("out", &[&large, &large])) else {
        panic!("3 MB have no room in 2 MiB");
    };
    assert_eq!(fault.kind, "tooLarge");
    assert!(fault.message.contains("bufferMemory"), "{fault:?}");
}

/// A call owns its records while it waits for room, so the queue has a bound too.
#[test]
fn sends_that_wait_for_room_have_a_bound_which_their_end_frees() {
    let producers = producers();
    let tables = "[producerConfig]\nbufferMemory = '2MiB'\ntimeout = '60s'";
    let set = producers.open_set(&config(&nobody(), "", tables));
    let large = "x".repeat(1_500_000);
    let busy = || {
        let fault = set.send(request("out", &[&large])).err().unwrap();
        assert_eq!(fault.kind, "busy");
        let beginning =
            "`tide.kafka.send`: no record was sent: 1500100 bytes wait for room already";
        assert!(fault.message.starts_with(beginning), "{fault:?}");
    };
    let in_room = set.send(request("out", &[&large])).unwrap();
    let in_queue = set.send(request("out", &[&large])).unwrap();
    for _ in 0..100 {
        busy();
    }
    drop(in_queue);
    let mut queued = request("out", &[&large]);
    queued.timeout = Some(Duration::from_millis(50));
    let queued = set.send(queued).unwrap();
    busy();
    assert_eq!(block_on(queued).unwrap_err().kind, "busy");
    // The room of a send that never began is free again, too.
    drop(in_room);
    let in_room = set.send(request("out", &[&large])).unwrap();
    let in_queue = set.send(request("out", &[&large])).unwrap();
    busy();
    drop((in_room, in_queue));
}

#[test]
fn sets_share_the_producers_that_have_not_changed() {
    let broker = Broker::start().unwrap();
    broker.create_topic("out", 1).unwrap();
    let producers = producers();
    let file = |timeout: &str| {
        let tables = format!("[producers.audit]\ntimeout = '{timeout}'");
        config(broker.address(), "", &tables)
    };
    let old = producers.open_set(&file("10s"));
    let new = producers.open_set(&file("11s"));
    assert!(Arc::ptr_eq(&old.groups[0], &new.groups[0]), "default");
    assert!(!Arc::ptr_eq(&old.groups[1], &new.groups[1]), "audit");
    let of_audit = |request: Request| Request {
        producer: Some("audit".to_owned()),
        ..request
    };
    // A VM of the old bundle goes on with the old producer.
    for set in [&old, &new] {
        send(set, of_audit(request("out", &["a"]))).unwrap();
    }
    drop(old);
    let until = Instant::now() + Duration::from_secs(20);
    while producers.endings.running() > 0 {
        assert!(Instant::now() < until, "the old client ends");
        std::thread::sleep(Duration::from_millis(5));
    }
    send(&new, of_audit(request("out", &["b"]))).unwrap();
    assert!(producers.close(until));
    let failed = send(&new, request("out", &["late"])).unwrap_err();
    assert_eq!(failed.kind, "closed");
    assert!(matches!(&failed.results[..], [Fate::Failed(_)]));
}

#[test]
fn a_producer_of_the_file_connects_before_its_first_send() {
    let broker = Broker::start().unwrap();
    let producers = producers();
    let clients = || {
        let snapshots = producers.snapshots();
        snapshots
            .iter()
            .map(|one| one.status.clients)
            .collect::<Vec<_>>()
    };
    producers.put_in_force(&config(broker.address(), "", ""));
    assert_eq!(clients(), [0]);
    producers.put_in_force(&config(broker.address(), "produces = ['out']", ""));
    assert_eq!(clients(), [1]);
    producers.put_in_force(&config(broker.address(), "", "[producers.audit]\nacks = 1"));
    assert_eq!(clients(), [1, 1]);
}

#[test]
fn produces_is_the_list_of_what_a_listener_may_send_to() {
    let producers = producers();
    let set = producers.open_set(&config(&nobody(), "produces = ['orders.*', 'audit']", ""));
    let fault = |request: Request| {
        set.send(request)
            .err()
            .map(|fault| (fault.kind, fault.message))
    };
    assert_eq!(fault(request("orders.eu", &["a"])), None);
    assert_eq!(fault(request("audit", &["a"])), None);
    let (kind, message) = fault(request("audits", &["a"])).unwrap();
    assert_eq!(kind, "refused");
    assert_eq!(
        message,
        "`tide.kafka.send`: listener `h` may not send to topic `audits`: its `produces` has not this one: did you mean \
         `audit`?"
    );
    let of_init = Request {
        listener: None,
        ..request("audits", &["a"])
    };
    assert_eq!(fault(of_init), None, "init.lua is no listener");
}

#[test]
fn a_request_that_cannot_succeed_is_refused_at_once() {
    let producers = producers();
    let set = producers.open_set(&config(&nobody(), "", ""));
    let fault = |request: Request| set.send(request).err().unwrap();
    let unknown = Request {
        producer: Some("audit".to_owned()),
        ..request("out", &["a"])
    };
    assert_eq!(fault(unknown).kind, "notFound");
    let long = Request {
        timeout: Some(Duration::from_secs(31)),
        ..request("out", &["a"])
    };
    let long = fault(long);
    assert_eq!(long.kind, "invalid");
    assert!(
        long.message.contains("`timeout` is 31s, more than the 30s"),
        "{long:?}"
    );
}

/// Hears of the answers to numbered records.
#[derive(Default)]
struct Heard(Mutex<Vec<(u64, bool)>>);

impl Heard {
    /// The answers, once there are so many.
    fn wait(&self, count: usize) -> Vec<(u64, bool)> {
        wait_until("the answers", || self.0.lock().unwrap().len() >= count);
        std::mem::take(&mut *self.0.lock().unwrap())
    }
}

fn wait_until(what: &str, is_so: impl Fn() -> bool) {
    let until = Instant::now() + Duration::from_secs(20);
    while !is_so() {
        assert!(Instant::now() < until, "{what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

impl Acknowledgements for Heard {
    fn answered(&self, acknowledged: Vec<Run>, failed: Vec<(u64, Fault)>) {
        let numbers = acknowledged
            .into_iter()
            .flat_map(|run| run.first..run.first + run.count);
        let mut all = self.0.lock().unwrap();
        all.extend(numbers.map(|number| (number, true)));
        all.extend(failed.into_iter().map(|(number, _)| (number, false)));
    }
}

fn emitted(set: &Arc<Set>, values: &[&str]) -> Arc<Emitted> {
    Arc::new(Emitted {
        senders: set.clone(),
        requests: smallvec![request("out", values)],
        bytes: 1,
        kept: 0,
        last_bytes: 1,
        asked: None,
    })
}

/// Those of one turn share a call, and each has its answer.
#[test]
fn emitted_records_leave_by_the_flush() {
    let broker = Broker::start().unwrap();
    broker.create_topic("out", 1).unwrap();
    let producers = producers();
    let set = producers.open_set(&config(broker.address(), "", ""));
    let heard = Arc::new(Heard::default());
    let to: Arc<dyn Acknowledgements> = heard.clone();
    let slowly = set.emit(smallvec![request("out", &["a"])], Box::new(|_| ()));
    block_on(slowly).unwrap();
    let emit = |set: &Arc<Set>, number, values: &[&str]| {
        assert!(set.emit_now(&emitted(set, values), number, &to));
    };
    let in_flight = || set.groups[0].snapshot().status.in_flight;
    emit(&set, 1, &["b"]);
    emit(&set, 2, &["c"]);
    assert_eq!(in_flight(), 0, "they wait for the others of their turn");
    // An emission of several records does not wait, and those before it leave first.
    emit(&set, 3, &["d", "e"]);
    assert_eq!(heard.wait(4), [1, 2, 3, 4].map(|number| (number, true)));
    emit(&set, 5, &["f"]);
    set.flush();
    set.flush();
    assert_eq!(heard.wait(1), [(5, true)]);
    let group = &set.groups[0];
    let all = u32::try_from(group.settings.buffer_memory).unwrap();
    wait_until("the room comes back", || {
        matches!(group.count(all), Ok(Counted::Room(_)))
    });
}

/// A record that is in no request yet is taken back at once, and the producer goes on.
#[test]
fn emitted_records_have_numbers_and_can_be_taken_back() {
    let broker = Broker::start().unwrap();
    broker.create_topic("out", 1).unwrap();
    let producers = producers();
    let set = producers.open_set(&config(broker.address(), "", ""));
    let heard = Arc::new(Heard::default());
    let to: Arc<dyn Acknowledgements> = heard.clone();
    let emit = |first, values: &[&str]| {
        let is_taken = set.emit_now(&emitted(&set, values), first, &to);
        set.flush();
        is_taken
    };
    assert!(!emit(1, &["a"]), "the limit of the topic is not known");
    let slowly = set.emit(smallvec![request("out", &["a"])], Box::new(|_| ()));
    block_on(slowly).unwrap();
    assert!(emit(5, &["b", "c"]));
    assert_eq!(heard.wait(2), [(5, true), (6, true)]);
    // A record lingers for 5 ms, and this thread may be slower than that. librdkafka's own thread takes records back.
    let mut numbers = 7..;
    let mut answers = Vec::new();
    for is_written in [false, true] {
        while answers.last() != Some(&is_written) {
            let number = numbers.next().unwrap();
            assert!(emit(number, &["d"]));
            if !is_written {
                set.take_back();
            }
            let [(of, answer)] = heard.wait(1)[..] else {
                panic!("one answer");
            };
            assert_eq!(of, number);
            answers.push(answer);
        }
    }
    let (snapshot, failed) = (
        set.groups[0].snapshot(),
        answers.iter().filter(|one| !**one),
    );
    assert_eq!(snapshot.failed as usize, failed.count());
    assert_eq!(
        (snapshot.acknowledged + snapshot.failed) as usize,
        3 + answers.len()
    );
    assert_eq!(snapshot.status.in_flight_bytes, 0);
}
