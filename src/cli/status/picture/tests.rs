//! Whole pictures, word for word.

use crate::cli::status::picture::*;
use crate::telemetry::status::{BundleStatus, Deferred, Paused, Readiness, StuckLoad};

const MINUTE: i64 = 60_000;
const NOW: i64 = 1_000 * MINUTE;

fn view() -> View {
    View {
        now: NOW,
        width: None,
        all: false,
        colour: false,
    }
}

fn status() -> Status {
    Status {
        version: "0.1.0".into(),
        pid: 4242,
        config: "/etc/moontide/config.toml".into(),
        started_at: NOW - 185 * MINUTE,
        bundle: BundleStatus {
            number: 7,
            hash: "1f2e3d4c5b6a7988".into(),
            loaded_at: NOW - 5 * MINUTE,
        },
        ..Status::default()
    }
}

fn partition(topic: &str, partition: i32, lag: i64) -> PartitionStatus {
    PartitionStatus {
        topic: topic.into(),
        partition,
        position: Some(100),
        committed: Some(90),
        lag: Some(lag),
        ..PartitionStatus::default()
    }
}

fn consumer_of(partitions: Vec<PartitionStatus>) -> ConsumerStatus {
    ConsumerStatus {
        name: "default".into(),
        group_id: "orders-group".into(),
        state: "assigned".into(),
        subscription: vec!["billing".into(), "orders".into()],
        partitions,
        ..ConsumerStatus::default()
    }
}

fn block_at(offset: i64) -> Blocked {
    Blocked {
        offset,
        listener: "orders".into(),
        attempt: 7,
        since: NOW - 12 * MINUTE,
        next_attempt_at: NOW + 21_000,
        error: "handlers/orders.lua:3: no customer\nstack traceback:\n\t[C]: in error".into(),
    }
}

fn error(place: &str, error: &str) -> ErrorStatus {
    ErrorStatus {
        place: place.into(),
        error: error.into(),
        since: NOW - 2 * MINUTE,
        ..ErrorStatus::default()
    }
}

#[track_caller]
fn check(status: &Status, view: &View, expected: &str) {
    let picture = picture(status, view);
    assert_eq!(picture, expected.strip_prefix('\n').unwrap(), "\n{picture}");
}

#[test]
fn a_daemon_in_order_is_a_short_picture() {
    let mut orders = partition("orders", 0, 5);
    orders.in_flight = 3;
    let mut billing = PartitionStatus {
        topic: "billing".into(),
        partition: 11,
        ..PartitionStatus::default()
    };
    billing.committed = Some(1_234_567);
    let consumers = vec![consumer_of(vec![orders, billing])];
    check(
        &Status {
            consumers,
            ..status()
        },
        &view(),
        "
moontide 0.1.0, pid 4242, started 3 h 5 min ago
config    /etc/moontide/config.toml
bundle    7 (1f2e3d4c5b6a7988), loaded 5 min ago

consumer default, group orders-group: assigned
  topics  billing, orders
  2 partitions of 2 topics, lag 5 and unknown in 1, 3 in flight

  topic    partition  position  committed      lag  in flight
  billing         11         -    1234567  unknown          0
  orders           0       100         90        5          3
",
    );
}

#[test]
fn what_waits_without_a_fault_is_told_by_its_number() {
    let waits = |number, pause| PartitionStatus {
        paused: Some(pause),
        ..partition("orders", number, 5)
    };
    let pauses = [
        Pause::RateLimit,
        Pause::Budget,
        Pause::NotDue,
        Pause::RateLimit,
    ];
    let partitions = (0..)
        .zip(pauses)
        .map(|(number, pause)| waits(number, pause));
    let status = Status {
        consumers: vec![consumer_of(partitions.collect())],
        ..status()
    };
    let picture = picture(&status, &view());
    let mut lines = picture
        .lines()
        .skip_while(|line| !line.contains("4 partitions of"));
    assert_eq!(
        lines.nth(1),
        Some("  2 partitions wait for the rate limit of a listener")
    );
    assert_eq!(
        lines.next(),
        Some("  1 partition waits until the next message is due")
    );
}

#[test]
fn why_it_is_not_ready_shows_with_the_first_reasons() {
    let reason = |partition| Reason {
        what: format!("partition orders[{partition}] of consumer default"),
        since: NOW - 6 * MINUTE,
        why: "the message at offset 7 is not finished".into(),
    };
    let readiness = |reasons: Vec<Reason>| {
        Some(Readiness {
            ready: reasons.is_empty(),
            reasons,
        })
    };
    let head = |reasons| {
        let status = Status {
            readiness: readiness(reasons),
            ..status()
        };
        let picture = picture(&status, &view());
        let lines = picture.lines().filter(|line| !line.is_empty());
        lines.skip(3).map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(head(Vec::new())[0], "ready     yes");
    let lines = head((0..5).map(reason).collect());
    assert_eq!(
        lines[0],
        "ready     no, partition orders[0] of consumer default, for 6 min: the message at offset 7 is not finished"
    );
    assert_eq!(
        lines[3],
        "          … and 2 other reasons; --all shows them"
    );
}

#[test]
fn what_is_paused_shows_by_whom_and_why() {
    let paused = |listener: &str, reason: Option<&str>| Paused {
        listener: listener.into(),
        since: NOW - 3 * MINUTE,
        by: "anna (uid 1000, pid 77)".into(),
        reason: reason.map(str::to_owned),
    };
    let status = Status {
        paused: vec![
            paused("orders", Some("shop is down")),
            paused("audit", None),
        ],
        ..status()
    };
    check(
        &status,
        &view(),
        "
moontide 0.1.0, pid 4242, started 3 h 5 min ago
config    /etc/moontide/config.toml
bundle    7 (1f2e3d4c5b6a7988), loaded 5 min ago
paused    listener `orders` for 3 min by anna (uid 1000, pid 77): shop is down
paused    listener `audit` for 3 min by anna (uid 1000, pid 77)

no consumers
",
    );
}

#[test]
fn a_load_that_does_not_end_shows_with_its_position() {
    let status = Status {
        watches: Some(false),
        stuck_load: Some(StuckLoad {
            why: "handlers/orders.lua:3: code that nothing can interrupt".into(),
            since: NOW - 2 * MINUTE,
        }),
        ..status()
    };
    check(
        &status,
        &view(),
        "
moontide 0.1.0, pid 4242, started 3 h 5 min ago
config    /etc/moontide/config.toml
bundle    7 (1f2e3d4c5b6a7988), loaded 5 min ago
watch     off: a reload needs SIGHUP or `moontide reload`
load      does not end, for 2 min, and no reload is possible: handlers/orders.lua:3: code that nothing can interrupt

no consumers
",
    );
}

#[test]
fn everything_wrong_shows() {
    let mut stuck = partition("orders", 0, 50_000);
    stuck.blocked = Some(block_at(100));
    let consumers = vec![
        consumer_of(vec![stuck]),
        ConsumerStatus {
            name: "audit".into(),
            group_id: "audit".into(),
            state: "connecting".into(),
            errors: vec![error("broker broker:9093", "connection refused")],
            ..ConsumerStatus::default()
        },
    ];
    let bad = "config.toml:12:1: unknown key `handlr` in `[[listeners]]`, did you mean `handler`?";
    let last_reload = ReloadReport {
        at: NOW - MINUTE,
        result: ReloadResult::Rejected,
        bundle: 7,
        message: bad.into(),
        waiting_for_restart: Vec::new(),
    };
    let status = Status {
        last_reload: Some(last_reload),
        disk: Some(bad.into()),
        waiting_for_restart: vec!["lua.workers".into(), "log.file".into()],
        consumers,
        ..status()
    };
    check(
        &status,
        &View {
            width: Some(60),
            ..view()
        },
        "
moontide 0.1.0, pid 4242, started 3 h 5 min ago
config    /etc/moontide/config.toml
bundle    7 (1f2e3d4c5b6a7988), loaded 5 min ago
reload    rejected 1 min ago: config.toml:12:1: unknown ke …
on disk   bad, a restart would fail: config.toml:12:1: unk …
restart   needed for `lua.workers`, `log.file`

consumer default, group orders-group: assigned
  topics  billing, orders
  1 partition of 1 topic, lag 50000, 0 in flight

  topic   partition  position  committed    lag  in flight
  orders          0       100         90  50000          0

  blocked orders[0]@100 for 12 min: listener orders, 7 attempts, next attempt in 21 s
    handlers/orders.lua:3: no customer …

consumer audit, group audit: connecting
  error   broker broker:9093, for 2 min: connection refused
  topics  none yet
  no partitions assigned
",
    );
    let all = picture(
        &status,
        &View {
            all: true,
            ..view()
        },
    );
    assert!(
        all.contains("no customer\n    stack traceback:\n        [C]: in error\n"),
        "{all}"
    );
}

#[test]
fn a_partition_from_which_nothing_is_received_shows_why() {
    let mut denied = partition("orders", 0, 0);
    denied.lag = None;
    denied.error = Some(error("orders[0]", "Broker: Topic authorization failed"));
    let consumers = vec![consumer_of(vec![denied])];
    let status = Status {
        consumers,
        ..status()
    };
    let picture = picture(&status, &view());
    let expected = "  1 partition of 1 topic, lag unknown, 0 in flight

  topic   partition  position  committed      lag  in flight
  orders          0       100         90  unknown          0

  nothing received from orders[0], for 2 min: Broker: Topic authorization failed
";
    assert!(picture.ends_with(expected), "{picture}");
}

#[test]
fn of_many_partitions_the_troubled_ones_are_shown() {
    let mut partitions: Vec<_> = (0..500)
        .map(|number| partition("orders", number, i64::from(number % 100)))
        .collect();
    partitions[7].blocked = Some(block_at(3));
    partitions[8].error = Some(error("orders[8]", "denied"));
    partitions[9].lag = None;
    let status = Status {
        consumers: vec![consumer_of(partitions)],
        ..status()
    };
    let few = picture(&status, &view());
    let shown: Vec<i32> = few
        .lines()
        .filter_map(|line| {
            line.strip_prefix("  orders ")?
                .split_whitespace()
                .next()?
                .parse()
                .ok()
        })
        .collect();
    assert_eq!(shown.len(), ROWS_MAX);
    assert!(shown.is_sorted());
    assert!(
        [7, 8, 9, 99, 199, 299, 399, 499]
            .iter()
            .all(|number| shown.contains(number)),
        "{shown:?}"
    );
    assert!(
        few.contains("  … and 480 other partitions without lag; --all shows them\n"),
        "{few}"
    );
    assert!(
        few.contains("  500 partitions of 1 topic, lag 24741 and unknown in 1, 0 in flight\n"),
        "{few}"
    );

    let all = picture(
        &status,
        &View {
            all: true,
            ..view()
        },
    );
    assert_eq!(
        all.lines()
            .filter(|line| line.starts_with("  orders "))
            .count(),
        500
    );
}

#[test]
fn many_blocked_partitions_are_listed_by_age() {
    let partitions = (0..30)
        .map(|number| {
            let since = NOW - MINUTE * i64::from(number + 1);
            let blocked = Some(Blocked {
                since,
                next_attempt_at: NOW,
                ..block_at(3)
            });
            PartitionStatus {
                blocked,
                ..partition("orders", number, 1)
            }
        })
        .collect();
    let picture = picture(
        &Status {
            consumers: vec![consumer_of(partitions)],
            ..status()
        },
        &view(),
    );
    let first = picture
        .lines()
        .find(|line| line.starts_with("  blocked"))
        .unwrap();
    assert_eq!(
        first,
        "  blocked orders[29]@3 for 30 min: listener orders, 7 attempts, next attempt due"
    );
    assert!(
        picture.ends_with("  … and 10 other partitions blocked; --all shows them\n"),
        "{picture}"
    );
}

#[test]
fn colour_only_where_it_is_wanted() {
    assert!(!picture(&status(), &view()).contains('\x1b'));
    assert!(
        picture(
            &status(),
            &View {
                colour: true,
                ..view()
            }
        )
        .starts_with("\x1b[1mmoontide 0.1.0, ")
    );
}

#[test]
fn deferred_messages_are_shown_with_the_place_of_the_oldest() {
    let mut one = partition("orders", 3, 40);
    one.deferred = Some(Deferred {
        messages: 250,
        offset: 100,
        listener: "sums".into(),
        at: "handlers/sums.lua:12".into(),
        since: NOW - 3 * MINUTE,
        holds_position: true,
    });
    let lines = deferred(&[one, partition("orders", 4, 0)], &view());
    assert_eq!(
        lines,
        [
            "",
            "  deferred 250 messages of orders[3]; the first, at offset 100, for 3 min in listener sums at \
             handlers/sums.lua:12, and the position waits for it"
        ]
    );
}
