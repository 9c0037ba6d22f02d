//! Brokers that are away or frozen, sends that are given up, and a stop among them.

use std::net::TcpListener;
use std::time::{Duration, Instant};

use crate::sends::{sending, values};
use crate::support::client::numbered;
use crate::support::daemon::Daemon;
use crate::support::kafka::{self, Kafka};
use crate::support::wait::DEADLINE;

fn nobody() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().to_string()
}

/// A broker that is away never keeps the daemon from starting, nor from stopping; a send to it raises.
#[test]
fn a_producer_whose_broker_is_away_starts_raises_and_stops() {
    let Some(kafka) = kafka::shared() else { return };
    let sections = format!(
        "[producers.audit]\nbrokers = [\"{}\"]\ntimeout = \"7s\"\n",
        nobody()
    );
    let (project, source, out) = sending(
        kafka,
        "",
        &sections,
        1,
        r#"
        local audit = tide.kafka.producer("audit")
        local ok, err = pcall(audit.send, { topic = out, value = "v", timeout = "1s" })
        assert(not ok and tide.error.is(err, "unreachable"), tostring(err))
        ok, err = pcall(audit.send, { topic = out, value = "v" })
        assert(not ok and tide.error.is(err, "unreachable"), tostring(err))
        assert(#err.results == 1 and tostring(err):find("no acknowledgement within 7s", 1, true), tostring(err))
        tide.kafka.send{ topic = out, value = "v" }
        record.line("done", message, ctx)
        "#,
    );
    kafka.existing_topic(&source).produce(numbered(0..1, 0));
    let daemon = Daemon::start(&project);
    project.wait_for_entries("done", 1, DEADLINE);
    assert_eq!(kafka.read(&out, 1, 1).len(), 1);
    let status = daemon.status();
    let audit = &status["producers"][1];
    assert_eq!(audit["name"], "audit");
    assert!(
        audit["error"]
            .as_str()
            .unwrap()
            .contains("no acknowledgement"),
        "{audit}"
    );
    daemon.stop();
}

/// `idempotent`: a broker that is killed and comes back gets every record once, in order.
#[test]
fn idempotent_through_a_restart_of_the_broker() {
    let Some(kafka) = kafka::shared() else { return };
    let Some(own) = Kafka::start_own() else {
        return;
    };
    let restarted = own.topic("restarted", 1);
    // A broker of a slow machine needs more than the 30 s of the default for its restart.
    let bootstrap = own.bootstrap();
    let sections = format!("[producers.other]\nbrokers = [\"{bootstrap}\"]\ntimeout = \"2m\"\n");
    let body = r#"
        tide.sleep(5)
        tide.kafka.producer("other").send{ topic = "@OUT@", value = message.value }
        record.line("done", message, ctx)
        "#
    .replace("@OUT@", &restarted.name);
    let (project, source, _) = sending(kafka, "", &sections, 1, &body);
    kafka.existing_topic(&source).produce(numbered(0..150, 0));
    let mut daemon = Daemon::start(&project);
    daemon.wait_for("records are on their way", |_| {
        project.entries_of("done").len() > 50
    });
    own.kill();
    own.start();
    let done = project.wait_for_entries("done", 150, 2 * DEADLINE);
    assert!(done.iter().all(|one| one.attempt == 1), "no send failed");
    let sent = values(&own.read(&restarted.name, 1, 150));
    let expected: Vec<String> = (0..150).map(|number| number.to_string()).collect();
    assert_eq!(sent, expected);
    daemon.stop();
}

/// The broker stands still: the send times out, its record counts as unknown, and it may be written later.
#[test]
fn timeout_of_a_send_to_a_frozen_broker() {
    let Some(kafka) = Kafka::start_own() else {
        return;
    };
    let (project, source, out) = sending(
        &kafka,
        "",
        "",
        1,
        r#"
        tide.kafka.send{ topic = out, value = "before" }
        record.line("frozen", message, ctx)
        while not io.open("gate") do tide.sleep(20) end
        local ok, err = pcall(tide.kafka.send, { topic = out, value = "meanwhile", timeout = "500ms" })
        assert(not ok and tide.error.is(err, "timeout"), tostring(err))
        assert(err.results[1].unknown == true)
        record.line("late", message, ctx, tostring(err))
        record.line("done", message, ctx, tide.kafka.send{ topic = out, value = "after" }.offset)
        "#,
    );
    kafka.existing_topic(&source).produce(numbered(0..1, 0));
    let daemon = Daemon::start(&project);
    project.wait_for_entries("frozen", 1, DEADLINE);
    kafka.freeze();
    project.open_gate();
    let late = project.wait_for_entries("late", 1, DEADLINE);
    assert!(
        late[0].extra.contains("the record may still be written"),
        "{late:?}"
    );
    kafka.thaw();
    let done = project.wait_for_entries("done", 1, DEADLINE);
    assert_eq!(
        done[0].extra, "2",
        "the record of the late send was written, once"
    );
    assert_eq!(kafka.read(&out, 1, 3).len(), 3);
    daemon.stop();
}

/// Records without an acknowledgement have a bound, which their calls may outlive: the next send waits for room.
#[test]
fn buffer_memory_makes_a_send_wait_for_room() {
    let Some(kafka) = Kafka::start_own() else {
        return;
    };
    let (project, source, _) = sending(
        &kafka,
        "",
        "[producerConfig]\nbufferMemory = \"2MiB\"\n",
        1,
        r#"
        local large = ("x"):rep(900000)
        tide.kafka.send{ topic = out, value = "before" }
        record.line("frozen", message, ctx)
        while not io.open("gate") do tide.sleep(20) end
        for _ = 1, 2 do
          local ok, err = pcall(tide.kafka.send, { topic = out, value = large, timeout = "500ms" })
          assert(not ok and tide.error.is(err, "timeout"), tostring(err))
        end
        local ok, err = pcall(tide.kafka.send, { topic = out, value = large, timeout = "500ms" })
        assert(not ok and tide.error.is(err, "busy"), tostring(err))
        record.line("full", message, ctx)
        tide.kafka.send{ topic = out, value = large }
        record.line("done", message, ctx)
        "#,
    );
    kafka.existing_topic(&source).produce(numbered(0..1, 0));
    let mut daemon = Daemon::start(&project);
    project.wait_for_entries("frozen", 1, DEADLINE);
    kafka.freeze();
    project.open_gate();
    project.wait_for_entries("full", 1, DEADLINE);
    daemon.wait_for("a send waits for room", |daemon| {
        let status = daemon.status();
        let producer = &status["producers"][0];
        producer["queued"] == 1 && producer["inFlight"] == 2
    });
    kafka.thaw();
    project.wait_for_entries("done", 1, DEADLINE);
    daemon.stop();
}

/// Each call that waits for room owns its records, so these calls have a bound too. The others fail at once.
#[test]
fn many_sends_to_a_frozen_broker_are_busy() {
    let Some(kafka) = Kafka::start_own() else {
        return;
    };
    let (project, source, _) = sending(
        &kafka,
        "",
        "[producerConfig]\nbufferMemory = \"2MiB\"\n",
        1,
        r#"
        local large, all = ("x"):rep(900000), {}
        for index = 1, 50 do all[index] = index end
        tide.kafka.send{ topic = out, value = "before" }
        record.line("frozen", message, ctx)
        while not io.open("gate") do tide.sleep(20) end
        local sent, busy = 0, 0
        tide.parallel(all, function()
          local ok, err = pcall(tide.kafka.send, { topic = out, value = large })
          if ok then sent = sent + 1 return end
          assert(tide.error.is(err, "busy"), tostring(err))
          busy = busy + 1
          if busy == 46 then record.line("busy", message, ctx) end
        end, { concurrency = 50 })
        record.line("done", message, ctx, sent .. " " .. busy)
        "#,
    );
    kafka.existing_topic(&source).produce(numbered(0..1, 0));
    let mut daemon = Daemon::start(&project);
    project.wait_for_entries("frozen", 1, DEADLINE);
    kafka.freeze();
    project.open_gate();
    project.wait_for_entries("busy", 1, DEADLINE);
    daemon.wait_for("two sends wait for room", |daemon| {
        let status = daemon.status();
        let producer = &status["producers"][0];
        producer["queued"] == 2 && producer["inFlight"] == 2
    });
    kafka.thaw();
    let done = project.wait_for_entries("done", 1, DEADLINE);
    assert_eq!(done[0].extra, "4 46");
    daemon.stop();
}

/// librdkafka may take long to make a client, with many certificates. Neither a send nor the status waits for that.
#[test]
fn a_client_that_is_being_made_holds_up_nothing() {
    let Some(kafka) = kafka::shared() else { return };
    let (project, source, _) = sending(
        kafka,
        "",
        "",
        1,
        r#"
        local ok, err = pcall(tide.kafka.send, { topic = out, value = "v", timeout = "300ms" })
        assert(not ok and tide.error.is(err, "timeout"), tostring(err))
        record.line("late", message, ctx, tostring(err))
        "#,
    );
    kafka.existing_topic(&source).produce(numbered(0..1, 0));
    let mut daemon = Daemon::spawn_with(&project, &[("MOONTIDE_FAILPOINT", "client-make=1:hang")]);
    daemon.wait_line("ready", |line| line.is("ready"));
    let late = project.wait_for_entries("late", 1, DEADLINE);
    assert!(
        late[0].extra.contains("made no client within 300ms"),
        "{late:?}"
    );
    assert_eq!(daemon.status()["producers"][0]["clients"], 0);
}

/// `limits.timeout` gives up a call with its send; the message is retried, and nothing is left behind.
#[test]
fn a_call_that_is_given_up_gives_up_its_send() {
    let Some(kafka) = Kafka::start_own() else {
        return;
    };
    let (project, source, _) = sending(
        &kafka,
        "retry = { initialDelay = 10 }\nlimits = { timeout = \"1500ms\", blocking = \"1500ms\" }\n",
        "",
        1,
        r#"
        record.line("try", message, ctx)
        if ctx.attempt == 1 then
          tide.kafka.send{ topic = out, value = "before" }
          record.line("frozen", message, ctx)
          while not io.open("gate") do tide.sleep(20) end
          tide.kafka.send{ topic = out, value = "meanwhile" }
        end
        record.line("done", message, ctx)
        "#,
    );
    kafka.existing_topic(&source).produce(numbered(0..1, 0));
    let daemon = Daemon::start(&project);
    project.wait_for_entries("frozen", 1, DEADLINE);
    kafka.freeze();
    project.open_gate();
    project.wait_for_entries("done", 1, DEADLINE);
    kafka.thaw();
    let jobs = daemon.stop_counted();
    assert!(jobs.ended_in_order(), "{jobs:?}");
    assert_eq!((jobs.told, jobs.answered), (1, 1));
}

/// A stop among sends that no broker answers ends in time, as any stop does.
#[test]
fn a_stop_among_open_sends_ends_in_time() {
    let Some(kafka) = kafka::shared() else { return };
    let sections = format!(
        "[producers.audit]\nbrokers = [\"{}\"]\ntimeout = \"5m\"\n[daemon]\ndrainDeadline = \"1s\"\n",
        nobody()
    );
    let (project, source, _) = sending(
        kafka,
        "ordering = \"none\"\n",
        &sections,
        1,
        r#"
        record.line("try", message, ctx)
        tide.kafka.producer("audit").send{ topic = out, value = "v" }
        "#,
    );
    kafka.existing_topic(&source).produce(numbered(0..20, 0));
    let mut daemon = Daemon::start(&project);
    project.wait_for_entries("try", 20, DEADLINE);
    daemon.wait_for("the records are with the client", |daemon| {
        daemon.status()["producers"][1]["inFlight"] == 20
    });
    let began = Instant::now();
    let jobs = daemon.stop_counted();
    assert!(jobs.ended_in_order() && jobs.told == 20, "{jobs:?}");
    assert!(
        began.elapsed() < Duration::from_secs(20),
        "{:?}",
        began.elapsed()
    );
    assert_eq!(kafka.committed(&project.group, &source, 0), Some(0));
}
