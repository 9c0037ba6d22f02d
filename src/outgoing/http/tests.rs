//! The client against a server that answers well and badly.

#[path = "../../../tests/it/support/web.rs"]
pub(in crate::outgoing) mod web;

mod given_up;
mod secured;

use std::future::Future;
use std::time::Duration;

use super::*;
use crate::config::AllowList;
use crate::wait::http::Response;
use web::Web;

const SOON: Duration = Duration::from_secs(20);

/// A client of these settings, on a runtime as the outside has it.
struct Fixture {
    runtime: tokio::runtime::Runtime,
    clients: Arc<HttpClients>,
    http: Arc<dyn Http>,
}

fn settings() -> HttpClient {
    HttpClient::default()
}

fn allow(entries: &[&str]) -> AllowList {
    let entries: Vec<String> = entries.iter().map(|one| (*one).to_owned()).collect();
    AllowList::parsed(&entries)
}

impl Fixture {
    fn new(settings: &HttpClient) -> Self {
        // Every name is this machine, but for those that have no answer.
        let lookup: resolver::Lookup = Arc::new(|host| match host {
            "slow.test" => loop {
                std::thread::sleep(Duration::from_secs(1));
            },
            "none.test" => Err(std::io::Error::other("no such name")),
            _ => Ok(vec![[127, 0, 0, 1].into()]),
        });
        Self::with(settings, lookup, IDLE_MAX)
    }

    fn with(settings: &HttpClient, lookup: resolver::Lookup, idle_max: Duration) -> Self {
        let clients = Arc::new(HttpClients::new(lookup, idle_max));
        let http: Arc<dyn Http> = Arc::new(Handle(clients.client(settings)));
        Self {
            runtime: tokio::runtime::Builder::new_multi_thread()
                .worker_threads(2)
                .enable_all()
                .build()
                .unwrap(),
            clients,
            http,
        }
    }

    fn begin(&self, request: Request) -> impl Future<Output = Result<Response, Fault>> + use<> {
        self.http.request(request).unwrap().requesting
    }

    fn send(&self, request: Request) -> Result<Response, Fault> {
        let sent = self.begin(request);
        self.runtime
            .block_on(async { tokio::time::timeout(SOON, sent).await })
            .expect("the request ends")
    }

    fn get(&self, url: &str) -> Result<Response, Fault> {
        self.send(request("GET", url))
    }

    /// Waits until the pool has these numbers.
    #[track_caller]
    fn settles(&self, what: &str, is_settled: impl Fn(PoolStatus) -> bool) {
        let until = std::time::Instant::now() + SOON;
        while !is_settled(self.clients.status()) {
            let now = self.clients.status();
            assert!(std::time::Instant::now() < until, "{what}: {now:?}");
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        // A lookup that hangs is left behind.
        let runtime = std::mem::replace(
            &mut self.runtime,
            tokio::runtime::Builder::new_current_thread()
                .build()
                .unwrap(),
        );
        runtime.shutdown_background();
    }
}

fn request(method: &str, url: &str) -> Request {
    Request {
        function: "tide.http.request",
        method: method.to_owned(),
        url: url.to_owned(),
        ..Request::default()
    }
}

#[track_caller]
fn fails(result: Result<Response, Fault>, kind: &str, part: &str) {
    let fault = result.expect_err("the request fails");
    assert_eq!(fault.kind, kind, "{}", fault.message);
    assert!(fault.message.contains(part), "{}", fault.message);
}

/// A port that nothing listens on.
fn closed_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

#[test]
fn a_request_has_its_response_and_the_next_one_its_connection() {
    let (web, f) = (Web::start(), Fixture::new(&settings()));
    let mut post = request("POST", &web.url("/echo?a=1"));
    post.body = Some(b"\0\xffbin".to_vec());
    post.headers.push(("x-own".to_owned(), b"yes".to_vec()));
    let response = f.send(post).unwrap();
    assert_eq!((response.status, &*response.body), (200, &b"\0\xffbin"[..]));
    for _ in 0..5 {
        assert_eq!(f.get(&web.url("/x")).unwrap().body, b"ok");
    }
    let response = f.get(&web.url("/repeated")).unwrap();
    let cookies = response
        .headers
        .iter()
        .filter(|(name, _)| name == "set-cookie");
    assert_eq!(cookies.count(), 2);
    assert_eq!(web.accepted(), 1);
    let seen = &web.seen()[0];
    assert_eq!((&*seen.method, &*seen.path), ("POST", "/echo?a=1"));
    assert_eq!(seen.header("x-own"), Some("yes"));
    assert_eq!(seen.header("host"), Some(&*web.address().to_string()));
    assert!(seen.header("user-agent").unwrap().starts_with("moontide/"));
    let head = f.send(request("HEAD", &web.url("/echo"))).unwrap();
    assert_eq!((head.status, head.body.len()), (200, 0));
}

#[test]
fn an_idle_connection_is_closed_before_the_server_closes_it() {
    let web = Web::start();
    let f = Fixture::with(&settings(), resolver::system(), Duration::from_millis(50));
    f.get(&web.url("/x")).unwrap();
    f.settles("the idle connection is closed", |pool| {
        (pool.idle, pool.open) == (0, 0)
    });
    f.get(&web.url("/x")).unwrap();
    assert_eq!(web.accepted(), 2);
}

#[test]
fn a_request_on_a_connection_that_was_dead_is_repeated_once_if_it_is_idempotent() {
    let (web, f) = (Web::start(), Fixture::new(&settings()));
    f.get(&web.url("/once")).unwrap();
    assert_eq!(f.get(&web.url("/x")).unwrap().body, b"ok");
    assert_eq!(web.accepted(), 2);
    f.get(&web.url("/once")).unwrap();
    fails(
        f.send(request("POST", &web.url("/x"))),
        "closed",
        "ended before",
    );
    // A new connection that dies is no reason to repeat.
    fails(f.get(&web.url("/die")), "closed", "ended before");
    assert_eq!(web.seen_at("/die").len(), 1);
    // The server has closed it before anything was written: whatever the method, nothing can have happened.
    f.get(&web.url("/idle/1")).unwrap();
    f.settles("the client sees it", |pool| pool.open == 0);
    assert_eq!(f.send(request("POST", &web.url("/x"))).unwrap().body, b"ok");
}

#[test]
fn a_body_is_bounded_while_it_is_read_and_behind_its_decompression() {
    let (web, f) = (Web::start(), Fixture::new(&settings()));
    assert_eq!(f.get(&web.url("/gzip")).unwrap().body, b"hello");
    for path in ["/huge", "/chunks", "/bomb"] {
        fails(
            f.get(&web.url(path)),
            "tooLarge",
            "more than 16777216 bytes",
        );
    }
    let mut small = request("GET", &web.url("/echo"));
    small.max_body = Some(4);
    small.body = Some(b"hello".to_vec());
    fails(f.send(small.clone()), "tooLarge", "more than 4 bytes");
    small.max_body = Some(5);
    assert_eq!(f.send(small).unwrap().body, b"hello");
    fails(f.get(&web.url("/notgzip")), "invalid", "not the gzip");
    let mut own = request("GET", &web.url("/gzip"));
    own.headers
        .push(("accept-encoding".to_owned(), b"gzip".to_vec()));
    let response = f.send(own).unwrap();
    assert_eq!(response.body[..2], [0x1f, 0x8b], "as it came");
    assert_eq!(
        f.clients
            .shared
            .buffered
            .load(std::sync::atomic::Ordering::Relaxed),
        0
    );
}

#[test]
fn redirects_are_followed_up_to_a_number() {
    let (web, other, f) = (Web::start(), Web::start(), Fixture::new(&settings()));
    fails(f.get(&web.url("/loop")), "refused", "more than 5 redirects");
    assert_eq!(web.seen().len(), 6);
    let mut request = request("POST", &web.url(&format!("/to/307?{}", other.url("/echo"))));
    request.body = Some(b"body".to_vec());
    let secret = ("authorization".to_owned(), b"Bearer x".to_vec());
    request.headers.push(secret);
    assert_eq!(f.send(request.clone()).unwrap().body, b"body");
    assert!(web.seen()[6].header("authorization").is_some());
    assert!(other.seen()[0].header("authorization").is_none());
    request.redirects = Some(0);
    assert_eq!(f.send(request).unwrap().status, 307);
    let away = web.url("/to/302?file:///etc/passwd");
    fails(f.get(&away), "refused", "the address of a redirect");
}

#[test]
fn the_allow_list_counts_behind_the_lookup_and_at_each_redirect() {
    let (web, other) = (Web::start(), Web::start());
    let port = web.address().port();
    let f = Fixture::new(&HttpClient {
        allow: allow(&["public", &format!("good.test:{port}")]),
        ..settings()
    });
    let good = |path: &str| format!("http://good.test:{port}{path}");
    assert_eq!(f.get(&good("/x")).unwrap().body, b"ok");
    for host in [
        "127.0.0.1",
        "localhost",
        "any.test",
        "0x7f.1",
        "[::1]",
        "[::ffff:127.0.0.1]",
    ] {
        let url = format!("http://{host}:{port}/");
        fails(f.get(&url), "refused", "is not allowed");
    }
    let redirect = good(&format!("/to/302?{}", other.url("/")));
    fails(f.get(&redirect), "refused", "is not allowed");
    assert_eq!((web.seen().len(), other.accepted()), (2, 0));
    // Names alone need no lookup of others.
    let names = Fixture::new(&HttpClient {
        allow: allow(&["good.test"]),
        ..settings()
    });
    fails(names.get("http://slow.test/"), "refused", "is not allowed");
}

#[test]
fn each_way_of_no_answer_has_its_kind() {
    let (web, f) = (Web::start(), Fixture::new(&settings()));
    fails(
        f.get(&web.url("/half")),
        "closed",
        "ended before a whole response",
    );
    fails(f.get(&web.url("/garbage")), "invalid", "no HTTP");
    let nobody = format!("http://127.0.0.1:{}/", closed_port());
    fails(f.get(&nobody), "unreachable", "no connection to 127.0.0.1:");
    let failed = "the lookup of `none.test` failed: no such name";
    fails(f.get("http://none.test/"), "unreachable", failed);
    let late = |path: &str| Request {
        timeout: Some(Duration::from_millis(150)),
        ..request("GET", &web.url(path))
    };
    for path in ["/hang", "/drip"] {
        fails(
            f.send(late(path)),
            "timeout",
            "no whole response within 150ms",
        );
    }
    let hurried = Fixture::new(&HttpClient {
        connect_timeout: Duration::from_millis(100),
        ..settings()
    });
    let hangs = "the lookup of `slow.test` has not ended within 100ms";
    fails(hurried.get("http://slow.test/"), "unreachable", hangs);
    // The server waits for a request, and the client for the handshake.
    let silent = format!("https://{}/", web.address());
    let start = format!(
        "`tide.http.request`: GET {}: ",
        silent.trim_end_matches('/')
    );
    fails(hurried.get(&silent), "unreachable", &start);
    // Names that hang keep their own threads.
    let hanging = f
        .runtime
        .spawn(f.begin(request("GET", "http://slow.test/")));
    let good = format!("http://good.test:{}/", web.address().port());
    assert_eq!(f.get(&good).unwrap().status, 200);
    hanging.abort();
    f.settles("nothing is in use", |pool| {
        pool.in_use + pool.waiting == 0 && pool.open == pool.idle
    });
}

#[test]
fn a_request_beyond_the_connections_is_busy() {
    let (web, f) = (
        Web::start(),
        Fixture::new(&HttpClient {
            size: 1,
            acquire_timeout: Duration::from_millis(50),
            ..settings()
        }),
    );
    let hanging = f.runtime.spawn(f.begin(request("GET", &web.url("/hang"))));
    f.settles("one is in use", |pool| pool.in_use == 1);
    fails(
        f.get(&web.url("/x")),
        "busy",
        "all 1 connections are in use",
    );
    hanging.abort();
    f.settles("it is given back", |pool| pool.in_use == 0);
    assert_eq!(f.get(&web.url("/x")).unwrap().body, b"ok");
    // An idle connection to another origin makes room.
    let other = Web::start();
    assert_eq!(f.get(&other.url("/x")).unwrap().body, b"ok");
    f.settles("the first one is closed", |pool| pool.open == 1);
    let until = std::time::Instant::now() + SOON;
    while web.open() > 0 {
        assert!(std::time::Instant::now() < until, "it is not closed");
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn what_is_wrong_with_a_request_is_told_before_anything_is_sent() {
    let f = Fixture::new(&settings());
    let header = |name: &str, value: &[u8]| Request {
        headers: vec![(name.to_owned(), value.to_vec())],
        ..request("GET", "http://a.test/")
    };
    for (request, part) in [
        (request("GET", "a.test"), "the URL begins with neither"),
        (request("get", "http://a.test/"), "`method` is not a method"),
        (request("CONNECT", "http://a.test/"), "not possible here"),
        (header("x\n", b""), "no name of a header"),
        (header("x", b"a\r\nb: c"), "a line break"),
        (header("content-length", b"1"), "is set by Moontide"),
        (
            Request {
                certificate: Some("own".to_owned()),
                ..request("GET", "https://a.test/")
            },
            "there is no client certificate `own`",
        ),
    ] {
        let fault = f.http.request(request).err().expect("it is refused");
        assert_eq!(fault.kind, "invalid");
        assert!(fault.message.contains(part), "{}", fault.message);
    }
}

#[test]
fn equal_configurations_share_a_client_and_another_one_has_its_own() {
    let f = Fixture::new(&settings());
    let same = f.clients.client(&settings());
    assert_eq!(f.clients.status().size, 256);
    let other = f.clients.client(&HttpClient {
        size: 7,
        ..settings()
    });
    assert_eq!(f.clients.status().size, 263);
    drop((same, other));
    assert_eq!(f.clients.status().size, 256);
}
