//! Against real files: every way in which people and tools replace them.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use notify::NullWatcher;
use tempfile::TempDir;
use tokio::time::timeout;

use crate::service::watch::*;

/// Far more than any of it takes: passing never waits for it.
const DEADLINE: Duration = Duration::from_secs(20);

/// Nothing but events can be the reason of a signal.
const EVENTS_ONLY: Pace = Pace {
    slow: Duration::from_secs(3600),
    ..PACE
};

struct Case {
    temp: TempDir,
    watch: Watch,
}

impl Case {
    /// Watches `config.toml` and `handlers` in a directory furnished by `furnish`.
    async fn start(furnish: impl FnOnce(&Path)) -> Self {
        Self::start_with(furnish, EVENTS_ONLY, |shared| {
            let watcher = notify::recommended_watcher(move |event| shared.note(event))?;
            Ok(Box::new(watcher))
        })
        .await
    }

    async fn start_with(furnish: impl FnOnce(&Path), pace: Pace, connect: Connect) -> Self {
        let temp = TempDir::new().unwrap();
        let root = temp.path().join("etc");
        fs::create_dir(&root).unwrap();
        furnish(&root);
        let watch = Watch::start_with(
            root.join("config.toml"),
            root.join("handlers"),
            pace,
            &Supervisor::without_daemon(),
            connect,
        )
        .unwrap();
        let mut case = Self { temp, watch };
        case.signal("the first one").await;
        case
    }

    fn path(&self, path: &str) -> PathBuf {
        self.temp.path().join("etc").join(path)
    }

    async fn signal(&mut self, what: &str) {
        let signal = timeout(DEADLINE, self.watch.changed()).await;
        assert_eq!(signal, Ok(Some(())), "no signal: {what}");
    }

    /// Waits for signals until what a receiver of one would read is `expected`.
    async fn read(&mut self, path: &str, expected: &str) {
        while fs::read_to_string(self.path(path)).ok().as_deref() != Some(expected) {
            self.signal(path).await;
        }
    }

    async fn write(&mut self, path: &str) {
        fs::write(self.path(path), "written").unwrap();
        self.signal(path).await;
    }
}

fn plain(root: &Path) {
    fs::create_dir(root.join("handlers")).unwrap();
    fs::write(root.join("config.toml"), "old").unwrap();
    fs::write(root.join("handlers/orders.lua"), "old").unwrap();
}

#[tokio::test]
async fn a_save_in_place_is_signalled() {
    let mut case = Case::start(plain).await;
    case.write("config.toml").await;
    case.write("handlers/orders.lua").await;
    case.write("handlers/new.lua").await;
}

#[tokio::test]
async fn saves_by_rename_are_signalled_time_and_again() {
    let mut case = Case::start(plain).await;
    for path in [
        "config.toml",
        "handlers/orders.lua",
        "config.toml",
        "handlers/orders.lua",
    ] {
        fs::write(case.path("new"), "new").unwrap();
        fs::rename(case.path("new"), case.path(path)).unwrap();
        case.signal(path).await;
    }
}

#[tokio::test]
async fn a_new_folder_is_watched() {
    let mut case = Case::start(plain).await;
    fs::create_dir_all(case.path("handlers/billing/eu")).unwrap();
    case.signal("a folder").await;
    case.write("handlers/billing/eu/orders.lua").await;
    case.write("handlers/billing/eu/orders.lua").await;
}

#[tokio::test]
async fn a_deleted_file_is_signalled() {
    let mut case = Case::start(plain).await;
    fs::remove_file(case.path("handlers/orders.lua")).unwrap();
    case.signal("deleted").await;
    case.write("handlers/orders.lua").await;
}

#[tokio::test]
async fn a_swapped_data_link_of_a_config_map_is_signalled() {
    let generation = |root: &Path, name: &str| {
        fs::create_dir(root.join(name)).unwrap();
        fs::write(root.join(name).join("config.toml"), name).unwrap();
        fs::write(root.join(name).join("orders.lua"), name).unwrap();
        symlink(name, root.join("..data_tmp")).unwrap();
        fs::rename(root.join("..data_tmp"), root.join("..data")).unwrap();
    };
    let mut case = Case::start(|root| {
        generation(root, "..1");
        symlink("..data/config.toml", root.join("config.toml")).unwrap();
        fs::create_dir(root.join("handlers")).unwrap();
        symlink("../..data/orders.lua", root.join("handlers/orders.lua")).unwrap();
    })
    .await;
    for name in ["..2", "..3"] {
        generation(&case.path(""), name);
        case.read("config.toml", name).await;
        case.signal("the swap").await;
    }
    fs::write(case.path("..3/orders.lua"), "new").unwrap();
    case.signal("the real file").await;
}

#[tokio::test]
async fn a_link_to_another_release_is_signalled_and_followed() {
    let mut case = Case::start(|root| {
        plain(root);
        for release in ["1", "2"] {
            fs::create_dir_all(root.join("releases").join(release)).unwrap();
            fs::write(
                root.join("releases").join(release).join("orders.lua"),
                release,
            )
            .unwrap();
        }
        fs::remove_dir_all(root.join("handlers")).unwrap();
        symlink("current", root.join("handlers")).unwrap();
        symlink("releases/1", root.join("current")).unwrap();
    })
    .await;
    fs::remove_file(case.path("current")).unwrap();
    symlink("releases/2", case.path("current")).unwrap();
    case.signal("the link").await;
    case.write("releases/2/orders.lua").await;
}

#[tokio::test]
async fn folders_that_are_deleted_and_made_anew_stay_watched() {
    let mut case = Case::start(plain).await;
    for _ in 0..3 {
        fs::remove_dir_all(case.path("handlers")).unwrap();
        fs::create_dir(case.path("handlers")).unwrap();
        case.signal("handlers").await;
        case.write("handlers/orders.lua").await;
    }
    fs::remove_dir_all(case.path("")).unwrap();
    fs::create_dir(case.path("")).unwrap();
    plain(&case.path(""));
    case.signal("everything").await;
    case.write("config.toml").await;
    case.write("handlers/orders.lua").await;
}

#[tokio::test]
async fn files_that_do_not_exist_yet_are_awaited() {
    let mut case = Case::start(|_| {}).await;
    case.write("config.toml").await;
    fs::create_dir(case.path("handlers")).unwrap();
    case.signal("handlers").await;
    case.write("handlers/orders.lua").await;
}

#[tokio::test]
async fn another_folder_of_handlers_is_watched_after_rearm() {
    let mut case = Case::start(plain).await;
    fs::create_dir(case.path("other")).unwrap();
    case.watch.rearm(case.path("other"));
    case.signal("armed").await;
    case.write("other/orders.lua").await;
}

#[tokio::test]
async fn a_config_that_is_written_by_another_way_than_its_directory_is_signalled() {
    // As when the file alone is mounted into a container.
    let mut case = Case::start(plain).await;
    fs::hard_link(
        case.path("config.toml"),
        case.temp.path().join("outside.toml"),
    )
    .unwrap();
    for text in ["new", "newer"] {
        fs::write(case.temp.path().join("outside.toml"), text).unwrap();
        case.signal(text).await;
    }
}

#[tokio::test]
async fn saves_without_end_are_signalled_nevertheless() {
    let mut case = Case::start(plain).await;
    let start = Instant::now();
    while timeout(PACE.quiet / 4, case.watch.changed()).await.is_err() {
        fs::write(case.path("config.toml"), "again").unwrap();
        assert!(start.elapsed() < DEADLINE, "no signal");
    }
}

#[test]
fn neither_reading_nor_a_log_beside_the_config_is_a_change() {
    let temp = TempDir::new().unwrap();
    let root = temp.path().canonicalize().unwrap();
    plain(&root);
    let config = root.join("config.toml");
    let shared = Arc::new(Shared::default());
    shared.lock().places = Arc::new(Places::of(&config, &root.join("handlers")));
    let notes = Arc::clone(&shared);
    let mut watcher = notify::recommended_watcher(move |event| notes.note(event)).unwrap();
    for directory in [&root, &root.join("handlers")] {
        watcher
            .watch(directory, RecursiveMode::NonRecursive)
            .unwrap();
    }
    for _ in 0..20 {
        fs::read(&config).unwrap();
        fs::read(root.join("handlers/orders.lua")).unwrap();
        fs::write(root.join("moontide.log"), "a line").unwrap();
    }
    let before = Instant::now();
    fs::write(&config, "new").unwrap();
    // Events come in order, and nobody takes the unrest away here.
    while shared.lock().unrest.is_none() {
        assert!(before.elapsed() < DEADLINE, "no event");
        std::thread::yield_now();
    }
    assert!(
        shared
            .lock()
            .unrest
            .is_some_and(|unrest| unrest.first >= before)
    );
}

#[tokio::test]
async fn changes_are_found_where_events_are_refused() {
    let refuse: Connect = |_| Err(notify::Error::new(ErrorKind::MaxFilesWatch));
    let pace = Pace {
        poll: Duration::from_millis(20),
        ..EVENTS_ONLY
    };
    let mut case = Case::start_with(plain, pace, refuse).await;
    case.write("config.toml").await;
    case.write("handlers/orders.lua").await;
    fs::create_dir(case.path("handlers/billing")).unwrap();
    case.write("handlers/billing/orders.lua").await;
}

#[tokio::test]
async fn changes_are_found_where_no_events_come() {
    let silent: Connect = |_| Ok(Box::new(NullWatcher));
    let pace = Pace {
        slow: Duration::from_millis(50),
        ..EVENTS_ONLY
    };
    let mut case = Case::start_with(plain, pace, silent).await;
    case.write("config.toml").await;
    fs::write(case.path("handlers/orders.lua"), "written twice").unwrap();
    case.signal("handlers").await;
}

#[test]
fn a_loss_of_events_may_have_been_any_change() {
    let rescan = notify::Event::new(notify::EventKind::Other).set_flag(notify::event::Flag::Rescan);
    for event in [Ok(rescan), Err(notify::Error::generic("overflow"))] {
        let shared = Shared::default();
        shared.note(event);
        assert!(shared.lock().unrest.is_some());
    }
}

#[test]
fn a_signal_waits_for_quiet_but_not_beyond_the_limit() {
    let first = Instant::now();
    let settled_after = |last_ms| {
        let unrest = Unrest {
            first,
            last: first + Duration::from_millis(last_ms),
        };
        unrest.settled_at(PACE) - first
    };
    let cases = [(0, 100), (90, 190), (399, 499), (401, 500), (5000, 500)];
    for (last_ms, expected_ms) in cases {
        assert_eq!(settled_after(last_ms), Duration::from_millis(expected_ms));
    }
}

#[test]
fn dropping_it_ends_its_thread() {
    let temp = TempDir::new().unwrap();
    let watch = Watch::start(
        temp.path().join("config.toml"),
        temp.path().join("handlers"),
        &Supervisor::without_daemon(),
    )
    .unwrap();
    let shared = Arc::downgrade(&watch.shared);
    drop(watch);
    // The source of events ends soon after on its own thread, and holds the last reference until then.
    let deadline = Instant::now() + DEADLINE;
    while shared.strong_count() > 0 {
        assert!(Instant::now() < deadline, "still referenced");
        std::thread::yield_now();
    }
}
