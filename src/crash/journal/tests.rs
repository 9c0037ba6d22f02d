//! The journal's promises, with the file and with what may lie in its place.

use std::process::{Command, Stdio};

use proptest::prelude::*;
use tempfile::TempDir;

use crate::crash::journal::*;

/// Opens with two workers and a limit of two crashes.
fn open(directory: &Path) -> (Journal, Vec<Page>) {
    Journal::open(directory, 2, 2).unwrap()
}

/// A process that dies with these running: partition, offset, alone.
fn crash(directory: &Path, running: &[(i32, i64, bool)]) {
    let (_journal, mut pages) = open(directory);
    for &(partition, offset, alone) in running {
        let place = pages[1].partition_of("group", "orders", partition);
        // Never ended.
        let _ = pages[1].begin(&place, offset, alone);
    }
}

fn suspect(pages: &[Page], partition: i32, offset: i64) -> Option<(u32, bool)> {
    let place = pages[0].partition_of("group", "orders", partition);
    place
        .suspect(offset)
        .map(|suspect| (suspect.crashes, suspect.crashed_alone))
}

#[test]
fn a_message_that_was_running_in_enough_crashes_is_a_suspect() {
    let temp = TempDir::new().unwrap();
    crash(temp.path(), &[(0, 7, false), (1, 3, false)]);
    crash(temp.path(), &[(0, 7, false), (1, 4, false)]);
    let (_journal, pages) = open(temp.path());
    assert_eq!(suspect(&pages, 0, 7), Some((2, false)));
    assert_eq!(suspect(&pages, 0, 8), None);
    assert_eq!(suspect(&pages, 1, 3), None);
    assert!(pages[0].partition_of("group", "orders", 1).has_crashed());
    assert!(!pages[0].partition_of("other", "orders", 0).has_crashed());
}

#[test]
fn crashes_between_which_others_crash_are_counted() {
    let temp = TempDir::new().unwrap();
    crash(temp.path(), &[(0, 7, false)]);
    crash(temp.path(), &[(1, 1, false)]);
    crash(temp.path(), &[(0, 7, false)]);
    assert_eq!(suspect(&open(temp.path()).1, 0, 7), Some((2, false)));
}

#[test]
fn one_that_crashes_alone_is_proven() {
    let temp = TempDir::new().unwrap();
    crash(temp.path(), &[(0, 7, true)]);
    let (journal, pages) = open(temp.path());
    assert_eq!(suspect(&pages, 0, 7), Some((1, true)));
    drop((journal, pages));
    // And stays so, until it has an outcome.
    assert_eq!(suspect(&open(temp.path()).1, 0, 7), Some((1, true)));
}

#[test]
fn one_that_has_ended_or_has_an_outcome_is_forgotten() {
    let temp = TempDir::new().unwrap();
    crash(temp.path(), &[(0, 7, true), (0, 8, true)]);
    let (journal, mut pages) = open(temp.path());
    let mut place = pages[1].partition_of("group", "orders", 0);
    let slot = pages[1].begin(&place, 7, true);
    pages[1].end(slot);
    place.finished(7);
    assert_eq!(place.suspect(7), None);
    // Another place of the same partition, as after a rebalance.
    assert_eq!(suspect(&pages, 0, 7), None);
    drop((journal, pages, place));
    let (_journal, pages) = open(temp.path());
    assert_eq!(suspect(&pages, 0, 7), None);
    assert_eq!(suspect(&pages, 0, 8), Some((1, true)));
}

#[test]
fn a_proven_one_that_is_pardoned_is_a_suspect_again() {
    let temp = TempDir::new().unwrap();
    crash(temp.path(), &[(0, 7, true)]);
    let (journal, pages) = open(temp.path());
    pages[0].partition_of("group", "orders", 0).pardon(7);
    assert_eq!(suspect(&pages, 0, 7), Some((2, false)));
    drop((journal, pages));
    crash(temp.path(), &[(0, 7, true)]);
    assert_eq!(suspect(&open(temp.path()).1, 0, 7), Some((3, true)));
}

#[test]
fn the_message_at_hand_is_the_one_that_is_found() {
    let temp = TempDir::new().unwrap();
    let (journal, mut pages) = open(temp.path());
    let place = pages[0].partition_of("group", "orders", 0);
    let first = pages[0].begin(&place, 1, true);
    pages[0].end(first);
    let first = pages[0].begin(&place, 2, true);
    let second = pages[0].begin(&place, 50, true);
    pages[0].end(second);
    let third = pages[0].begin(&place, 60, true);
    drop((journal, pages, place, first, third));
    let (_journal, pages) = open(temp.path());
    let found = [1, 2, 50, 60].map(|offset| suspect(&pages, 0, offset).is_some());
    assert_eq!(found, [false, true, false, true]);
}

#[test]
fn a_stop_that_was_asked_for_is_no_crash() {
    let temp = TempDir::new().unwrap();
    let (journal, mut pages) = open(temp.path());
    let place = pages[0].partition_of("group", "orders", 0);
    let _running = pages[0].begin(&place, 1, true);
    journal.stopping();
    drop((journal, pages, place));
    assert_eq!(suspect(&open(temp.path()).1, 0, 1), None);
}

#[test]
fn a_worker_that_panics_is_a_crash_although_the_daemon_stops_in_order() {
    let temp = TempDir::new().unwrap();
    let (journal, mut pages) = open(temp.path());
    let mut page = pages.pop().unwrap();
    let worker = std::thread::spawn(move || {
        let place = page.partition_of("group", "orders", 0);
        let _running = page.begin(&place, 1, true);
        // Quietly: what a panic says is another's business.
        std::panic::resume_unwind(Box::new("a bug"));
    });
    assert!(worker.join().is_err());
    journal.stopping();
    drop((journal, pages));
    assert_eq!(suspect(&open(temp.path()).1, 0, 1), Some((1, true)));
}

#[test]
fn a_reboot_is_no_crash_but_forgets_none() {
    let crashed = Crashed {
        group: "group".into(),
        topic: "orders".into(),
        partition: 0,
        offset: 7,
        crashes: 2,
        alone: false,
    };
    let mut image = Layout::of(1).image(1, std::slice::from_ref(&crashed));
    let slot = Layout::page(0) * layout::WORD;
    image[slot..slot + 8].copy_from_slice(&layout::slot_word(0, 0, true).to_ne_bytes());
    let counted = |boot| layout::decode(&image, boot).unwrap().counted();
    assert_eq!(counted(2), [crashed]);
    assert_eq!(counted(1).len(), 2);
}

#[test]
fn calls_beyond_its_size_and_names_too_long_are_not_written() {
    let temp = TempDir::new().unwrap();
    let (journal, mut pages) = open(temp.path());
    let place = pages[0].partition_of("group", "orders", 0);
    let mut slots: Vec<_> = (0..=layout::SLOTS as i64)
        .map(|offset| pages[0].begin(&place, offset, false))
        .collect();
    assert_eq!(journal.memory.left_out(), 1);
    pages[0].end(slots.pop().unwrap());
    pages[0].end(slots.pop().unwrap());
    let again = pages[0].begin(&place, 9, false);
    assert_eq!(journal.memory.left_out(), 1);
    pages[0].end(again);
    let long = pages[1].partition_of(&"g".repeat(2000), "orders", 0);
    let unwritten = pages[1].begin(&long, 1, false);
    assert_eq!(journal.memory.left_out(), 2);
    pages[1].end(unwritten);
}

#[test]
fn more_names_than_there_is_room_for_do_no_harm() {
    let temp = TempDir::new().unwrap();
    let (journal, mut pages) = open(temp.path());
    for topic in 0..=layout::NAMES_MAX {
        let place = pages[0].partition_of("group", &format!("topic-{topic}"), 0);
        let slot = pages[0].begin(&place, 1, true);
        drop(slot);
    }
    assert_eq!(journal.memory.left_out(), 1);
    drop((journal, pages));
    let (_journal, pages) = open(temp.path());
    // Half of the names are kept for the messages that run now.
    let found = (0..=layout::NAMES_MAX).filter(|topic| {
        let place = pages[0].partition_of("group", &format!("topic-{topic}"), 0);
        place.suspect(1).is_some()
    });
    assert_eq!(found.count(), layout::NAMES_MAX / 2);
}

#[test]
fn a_second_process_in_one_directory_goes_without() {
    let temp = TempDir::new().unwrap();
    let _first = open(temp.path());
    let error = Journal::open(temp.path(), 1, 3).err().unwrap().to_string();
    assert!(error.starts_with("another daemon runs with state directory"));
    let (journal, mut pages) = Journal::start(temp.path(), 2, 3);
    assert!(journal.is_none());
    let place = pages[0].partition_of("group", "orders", 0);
    let slot = pages[0].begin(&place, 1, false);
    pages[0].end(slot);
    assert_eq!(place.suspect(1), None);
}

#[test]
fn a_place_that_cannot_be_written_is_done_without() {
    let temp = TempDir::new().unwrap();
    let file = temp.path().join("file");
    std::fs::write(&file, "").unwrap();
    assert!(Journal::start(&file, 1, 3).0.is_none());
    // A directory in the file's place.
    std::fs::create_dir_all(temp.path().join(FILE).join("x")).unwrap();
    assert!(Journal::start(temp.path(), 1, 3).0.is_none());
}

#[test]
fn whatever_lies_there_is_replaced() {
    let temp = TempDir::new().unwrap();
    for bytes in [&b""[..], b"moontide", &[0xff; 10_000]] {
        std::fs::write(temp.path().join(FILE), bytes).unwrap();
        let (_journal, pages) = open(temp.path());
        assert_eq!(suspect(&pages, 0, 0), None);
    }
}

const CHILD: &str = "MOONTIDE_TEST_JOURNAL";

#[test]
fn a_killed_process_leaves_what_it_was_at() {
    if let Some(directory) = std::env::var_os(CHILD) {
        return be_killed(Path::new(&directory));
    }
    let temp = TempDir::new().unwrap();
    let name = "crash::journal::tests::a_killed_process_leaves_what_it_was_at";
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args([name, "--exact", "--nocapture"])
        .env(CHILD, temp.path())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    while !temp.path().join("at-work").exists() {
        assert!(child.try_wait().unwrap().is_none());
        std::thread::yield_now();
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let (_journal, pages) = open(temp.path());
    assert_eq!(suspect(&pages, 3, i64::MAX), Some((1, true)));
    // The other page was written to without end: its message is one of those that ran.
    let place = pages[0].partition_of("group", "payments", 1);
    let found = (0..1000).filter(|offset| place.suspect(*offset).is_some());
    assert!(found.count() <= 1);
}

/// Runs messages until it is killed.
fn be_killed(directory: &Path) {
    let (_journal, mut pages) = open(directory);
    let place = pages[1].partition_of("group", "orders", 3);
    let _stuck = pages[1].begin(&place, i64::MAX, true);
    let place = pages[0].partition_of("group", "payments", 1);
    std::fs::write(directory.join("at-work"), "").unwrap();
    loop {
        for offset in 0..1000 {
            let slot = pages[0].begin(&place, offset, true);
            pages[0].end(slot);
        }
    }
}

/// Arbitrary damage to a real file: where, and what lies there then.
fn damaged() -> impl Strategy<Value = Vec<u8>> {
    let crashed = |(partition, offset, crashes): (i32, i64, u32)| Crashed {
        group: "group".into(),
        topic: format!("topic-{}", offset % 3),
        partition: partition & i32::MAX,
        offset: offset & i64::MAX,
        crashes: crashes.max(1),
        alone: false,
    };
    let history = prop::collection::vec(any::<(i32, i64, u32)>().prop_map(crashed), 0..8);
    let damage = prop::collection::vec((any::<prop::sample::Index>(), any::<u64>()), 0..40);
    (history, damage, any::<bool>()).prop_map(|(history, damage, header)| {
        let mut image = Layout::of(1).image(1, &history);
        let from = if header { 0 } else { 64 };
        for (index, word) in damage {
            let at = from + index.index((image.len() - from) / 8) * 8;
            let at = at.min(image.len() - 8);
            image[at..at + 8].copy_from_slice(&word.to_ne_bytes());
        }
        image
    })
}

fn check_sane(bytes: &[u8]) -> std::result::Result<(), TestCaseError> {
    for one in layout::decode(bytes, 1)
        .map(Left::counted)
        .unwrap_or_default()
    {
        prop_assert!(one.partition >= 0 && one.offset >= 0 && one.crashes > 0);
        prop_assert!(!one.topic.is_empty() && one.topic.len() < 1024);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 16, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_bytes_are_no_journal(bytes in prop::collection::vec(any::<u8>(), 0..20_000)) {
        prop_assert!(layout::decode(&bytes, 1).is_none());
    }

    #[test]
    fn damage_is_passed_over(bytes in damaged()) {
        check_sane(&bytes)?;
    }

    #[test]
    fn what_is_written_is_read(
        history in prop::collection::btree_set((0..5i32, 0..100i64), 0..50), crashes in 1..5u32, alone in any::<bool>()
    ) {
        let crashed: Vec<_> = history
            .into_iter()
            .map(|(partition, offset)| Crashed {
                group: String::new(),
                topic: "orders".into(),
                partition,
                offset,
                crashes,
                alone,
            })
            .collect();
        let image = Layout::of(3).image(1, &crashed);
        prop_assert_eq!(layout::decode(&image, 1).unwrap().counted(), crashed);
    }
}

/// Another process shortens the file under a running daemon.
#[test]
fn a_file_that_is_shortened_ends_nothing() {
    let temp = TempDir::new().unwrap();
    let (journal, mut pages) = open(temp.path());
    let path = temp.path().join(FILE);
    let file = OpenOptions::new().write(true).open(&path).unwrap();
    for length in [4096, 0] {
        file.set_len(length).unwrap();
        for page in &mut pages {
            let place = page.partition_of("group", "orders", length as i32);
            let slots: Vec<_> = (0..1000)
                .map(|offset| page.begin(&place, offset, false))
                .collect();
            for slot in slots {
                page.end(slot);
            }
            page.look();
        }
    }
    journal.stopping();
    drop((journal, pages));
    let (_journal, pages) = open(temp.path());
    assert_eq!(suspect(&pages, 0, 7), None);
}

/// A FIFO or a link in the place of a file neither holds up the start nor leads out of the folder.
#[test]
fn what_lies_in_the_place_of_a_file_is_refused_or_replaced() {
    let temp = TempDir::new().unwrap();
    let (folder, outside) = (temp.path().join("state"), temp.path().join("outside"));
    own_folder::make(&folder).unwrap();
    std::fs::write(&outside, "mine").unwrap();
    let fifo = |name: &str| {
        let _ = std::fs::remove_file(folder.join(name));
        let made = Command::new("mkfifo").arg(folder.join(name)).status();
        assert!(made.unwrap().success());
    };
    for name in [FILE, LOCK] {
        fifo(name);
        let error = format!("{:#}", Journal::open(&folder, 2, 2).err().unwrap());
        assert!(error.contains("it is a named pipe, not a file"), "{error}");
        std::fs::remove_file(folder.join(name)).unwrap();
        std::os::unix::fs::symlink(&outside, folder.join(name)).unwrap();
        let error = format!("{:#}", Journal::open(&folder, 2, 2).err().unwrap());
        assert!(error.contains("it is a link, not a file"), "{error}");
        std::fs::remove_file(folder.join(name)).unwrap();
    }
    std::os::unix::fs::symlink(&outside, folder.join(NEW)).unwrap();
    drop(open(&folder));
    fifo(NEW);
    drop(open(&folder));
    assert_eq!(std::fs::read_to_string(&outside).unwrap(), "mine");
}
