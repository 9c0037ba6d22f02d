//! Requests that are given up at any moment leave neither a socket nor a permit behind.

use super::*;

/// The paths, by what a request does for a long time.
const PATHS: [&str; 7] = [
    "/x", "/hang", "/drip", "/chunks", "/slow/5", "/half", "/bomb",
];

#[test]
#[expect(clippy::print_stdout, reason = "the seed of a test that fails")]
fn a_request_that_is_given_up_at_any_moment_leaves_nothing() {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let web = Web::start();
    let f = Fixture::new(&HttpClient {
        size: 8,
        acquire_timeout: Duration::from_millis(20),
        ..settings()
    });
    let mut handles = Vec::new();
    for _ in 0..400 {
        let path = PATHS[random.usize(..PATHS.len())];
        // A handshake with a server that has no TLS, and a lookup without an answer, hang too.
        let url = match random.u8(..10) {
            0 => format!("https://{}/", web.address()),
            1 => "http://slow.test/".to_owned(),
            _ => web.url(path),
        };
        let sent = f.begin(request("GET", &url));
        let after = Duration::from_millis(random.u64(..30));
        handles.push(f.runtime.spawn(async move {
            // The end of the time-out drops the request, wherever it is.
            let _ = tokio::time::timeout(after, sent).await;
        }));
        std::thread::sleep(Duration::from_micros(random.u64(..2_000)));
    }
    f.runtime.block_on(async {
        for handle in handles {
            handle.await.unwrap();
        }
    });
    f.settles(
        "every permit is back, and idle sockets alone are open",
        |pool| (pool.in_use, pool.waiting) == (0, 0) && pool.open == pool.idle && pool.idle <= 8,
    );
    assert_eq!(
        f.clients
            .shared
            .buffered
            .load(std::sync::atomic::Ordering::Relaxed),
        0
    );
    let until = std::time::Instant::now() + SOON;
    while web.open() > f.clients.status().idle {
        assert!(
            std::time::Instant::now() < until,
            "the server has {} sockets",
            web.open()
        );
        std::thread::sleep(Duration::from_millis(2));
    }
    // What stayed works, and is nobody's rest.
    for _ in 0..20 {
        assert_eq!(f.get(&web.url("/x")).unwrap().body, b"ok");
    }
    let counts = &f.clients.hosts()[0].results;
    assert!(
        counts.get("givenUp").is_some_and(|count| *count > 50),
        "{counts:?}"
    );
}

#[test]
fn many_requests_that_hang_leave_others_alone() {
    let (web, f) = (
        Web::start(),
        Fixture::new(&HttpClient {
            size: 300,
            ..settings()
        }),
    );
    let hanging: Vec<_> = (0..250)
        .map(|_| f.runtime.spawn(f.begin(request("GET", &web.url("/hang")))))
        .collect();
    f.settles("they hang", |pool| pool.in_use == 250);
    for _ in 0..50 {
        assert_eq!(f.get(&web.url("/x")).unwrap().body, b"ok");
    }
    drop(hanging);
    // A dropped handle detaches its task; the end of the runtime drops the requests.
}
