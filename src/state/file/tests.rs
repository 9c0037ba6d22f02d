//! A store in a file: groups of changes, what a new process finds, bounds and the lock.

use std::time::{Duration, Instant};

use super::*;
use crate::state::codec;
use crate::state::op::Bytes;

const WIDE: Bounds = Bounds {
    entries: 100_000,
    bytes: 64 << 20,
};

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_time()
        .build()
        .unwrap()
}

fn store(folder: &Path, bounds: Bounds) -> Arc<FileStore> {
    let store = FileStore::new(bounds);
    store
        .open("sessions", folder, &folder.join("kv-sessions.redb"))
        .unwrap();
    Arc::new(store)
}

fn key(text: &str) -> Bytes {
    text.as_bytes().into()
}

fn set(name: &str, value: i64, ttl: Option<Duration>) -> Op {
    Op::Set {
        key: key(name),
        value: codec::of_integer(value).into(),
        ttl,
    }
}

async fn get(store: &Arc<FileStore>, name: &str) -> Option<i64> {
    match Arc::clone(store).run(Op::Get { key: key(name) }).await {
        Ok(Done::Value(bytes)) => bytes.map(|bytes| codec::integer(&bytes).unwrap()),
        other => panic!("{other:?}"),
    }
}

fn incr(name: &str, by: i64) -> Op {
    Op::Incr {
        key: key(name),
        by,
        init: 0,
        ttl: None,
    }
}

#[test]
fn many_calls_share_a_transaction_and_a_new_process_finds_what_they_did() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join("state");
    let runtime = runtime();
    let first = store(&place, WIDE);
    runtime.block_on(async {
        let calls: Vec<_> = (0..500)
            .map(|number| tokio::spawn(Arc::clone(&first).run(incr("n", number))))
            .collect();
        for call in calls {
            call.await.unwrap().unwrap();
        }
        Arc::clone(&first)
            .run(set("gone", 1, Some(Duration::from_millis(1))))
            .await
            .unwrap();
        assert_eq!(get(&first, "n").await, Some(500 * 499 / 2));
    });
    // The writer may be in its last step.
    let open = Arc::downgrade(&first.opened().unwrap());
    drop(first);
    let end = Instant::now() + Duration::from_secs(5);
    while open.strong_count() > 0 {
        assert!(Instant::now() < end, "the file is not closed");
        std::thread::yield_now();
    }
    let second = store(&place, WIDE);
    runtime.block_on(async {
        assert_eq!(get(&second, "n").await, Some(500 * 499 / 2));
        let end = Instant::now() + Duration::from_secs(5);
        while get(&second, "gone").await.is_some() {
            assert!(Instant::now() < end, "an entry does not expire");
        }
        // The next change removes it.
        assert_eq!(second.held().entries, 2);
        Arc::clone(&second).run(incr("n", 1)).await.unwrap();
        assert_eq!(second.held().entries, 1);
        assert_eq!(second.held().bytes, crate::state::op::cost(b"n", &[0; 9]));
    });
}

#[test]
fn a_second_process_is_told_who_has_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join("state");
    let _first = store(&place, WIDE);
    let second = FileStore::new(WIDE);
    let path = place.join("kv-sessions.redb");
    let error = second.open("sessions", &place, &path).unwrap_err();
    let expected = format!(
        "kv sessions: `{}`: another process has it open; a store in a file belongs to one daemon, so give each its own \
         `daemon.stateDirectory`",
        path.display()
    );
    assert_eq!(error, expected);
}

#[test]
fn a_file_of_something_else_is_no_store() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join("state");
    own_folder::make(&place).unwrap();
    let path = place.join("kv-sessions.redb");
    std::fs::write(&path, "hello, this is no database at all").unwrap();
    let error = FileStore::new(WIDE)
        .open("sessions", &place, &path)
        .unwrap_err();
    assert!(error.contains("it cannot be opened"), "{error}");
    assert_eq!(
        std::fs::read(&path).unwrap(),
        b"hello, this is no database at all"
    );
}

#[test]
fn changes_of_one_transaction_see_each_other_and_the_bounds() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join("state");
    let one = store(
        &place,
        Bounds {
            entries: 2,
            bytes: 1 << 20,
        },
    );
    let open = one.opened().unwrap();
    let swap = |old: Option<i64>, new: Option<i64>| Op::Swap {
        key: key("s"),
        old: old.map(|one| codec::of_integer(one).into()),
        new: new.map(|one| codec::of_integer(one).into()),
        ttl: None,
    };
    let ops = [
        incr("a", 1),
        incr("a", 1),
        swap(Some(1), Some(2)),
        swap(None, Some(1)),
        swap(Some(1), Some(5)),
        set("c", 1, None),
        swap(Some(5), None),
        set("c", 1, Some(Duration::from_secs(1))),
        Op::Delete { key: key("x") },
    ];
    let borrowed: Vec<&Op> = ops.iter().collect();
    let bounds = one.bounds();
    let (results, held) =
        table::write(&open.database, &borrowed, open.held(), bounds, 1_000).unwrap();
    let words: Vec<String> = results
        .iter()
        .map(|result| match result {
            Ok(done) => format!("{done:?}"),
            Err(fault) => fault.kind.to_owned(),
        })
        .collect();
    assert_eq!(
        words,
        [
            "Number(1)",
            "Number(2)",
            "Swapped(Err(None))",
            "Swapped(Ok(()))",
            "Swapped(Ok(()))",
            "tooLarge",
            "Swapped(Ok(()))",
            "Nothing",
            "Deleted(false)",
        ]
    );
    assert_eq!(held.entries, 2);
    // What has expired makes room.
    let further = set("d", 1, None);
    let (results, held) = table::write(&open.database, &[&further], held, bounds, 2_000).unwrap();
    assert_eq!((&results[0], held.entries), (&Ok(Done::Nothing), 2));
    let scan = Op::Scan {
        prefix: Bytes::default(),
        after: Some(key("a")),
        limit: 10,
    };
    let found = table::read(&open.database, &scan, 2_000).unwrap();
    let expected = vec![(key("d"), codec::of_integer(1).into())];
    assert_eq!(found, Done::Entries(expected));
}

#[test]
fn a_call_that_is_given_up_leaves_the_others_alone() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join("state");
    let one = store(&place, WIDE);
    runtime().block_on(async {
        for round in 0..20 {
            let given_up = tokio::spawn(Arc::clone(&one).run(incr("x", 1)));
            given_up.abort();
            let done = Arc::clone(&one).run(incr("n", 1)).await;
            assert_eq!(done, Ok(Done::Number(round + 1)));
        }
        let _ = Arc::clone(&one).run(Op::Delete { key: key("x") }).await;
        let open = one.opened().unwrap();
        // The writer gives its room back behind the answer.
        let end = Instant::now() + Duration::from_secs(5);
        while open.room.available_permits() < UNITS {
            assert!(Instant::now() < end, "room is not given back");
            tokio::task::yield_now().await;
        }
    });
}
