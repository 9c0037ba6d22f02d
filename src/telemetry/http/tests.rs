//! The server over a real socket, with pages that say which they are.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Instant;

use crate::telemetry::http::*;

fn source() -> Source {
    Arc::new(|page| Content {
        is_well: page != Page::Ready,
        media_type: JSON,
        text: format!("{page:?}"),
    })
}

/// Runs `work` beside a server, as the daemon has it.
fn beside<T: Send + 'static>(work: impl FnOnce(SocketAddr) -> T + Send + 'static) -> T {
    let server = Server::bind(([127, 0, 0, 1], 0).into()).unwrap();
    let address = server.0.local_addr().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let serving = tokio::spawn(server.serve(source()));
        let result = tokio::task::spawn_blocking(move || work(address)).await;
        serving.abort();
        result.unwrap()
    })
}

/// What comes back for these bytes on a connection.
fn say(address: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

fn ask(request: &str) -> String {
    let request = request.to_owned();
    beside(move |address| say(address, &request))
}

#[track_caller]
fn check(request: &str, status: &str, end: &str) {
    let answer = ask(&format!("{request} HTTP/1.1\r\nhost: x\r\n\r\n"));
    assert!(
        answer.starts_with(&format!("HTTP/1.1 {status}")),
        "{answer}"
    );
    assert!(answer.ends_with(end), "{answer}");
}

#[test]
fn each_path_is_its_page_whatever_the_query() {
    check("GET /metrics", "200 OK", "\r\n\r\nMetrics(OpenMetrics)");
    check("GET /live?from=probe", "200 OK", "\r\n\r\nLive");
    check("GET /status", "200 OK", "\r\n\r\nStatus");
}

#[test]
fn metrics_come_in_the_form_that_is_asked_for() {
    let answer = ask(
        "GET /metrics HTTP/1.1\r\nhost: x\r\naccept: text/plain;version=0.0.4\r\naccept: */*;q=0.1\r\n\r\n",
    );
    assert!(answer.ends_with("\r\n\r\nMetrics(Text)"), "{answer}");
}

#[test]
fn what_is_not_well_is_unavailable() {
    check("GET /ready", "503 ", "\r\n\r\nReady");
}

#[test]
fn head_is_answered_without_a_body() {
    let answer = ask("HEAD /metrics HTTP/1.1\r\nhost: x\r\n\r\n");
    assert!(answer.contains("content-length: 20\r\n"), "{answer}");
    assert!(answer.ends_with("\r\n\r\n"), "{answer}");
}

#[test]
fn other_paths_and_methods_are_refused_in_words() {
    let there = "the pages are /metrics, /live, /ready and /status\n";
    check("GET /", "404 Not Found", there);
    check("POST /metrics", "405 ", "only GET and HEAD\n");
    let answer = ask("DELETE /live HTTP/1.1\r\nhost: x\r\n\r\n");
    assert!(answer.contains("allow: GET, HEAD\r\n"), "{answer}");
}

#[test]
fn an_address_that_is_taken_is_named() {
    let first = Server::bind(([127, 0, 0, 1], 0).into()).unwrap();
    let address = first.0.local_addr().unwrap();
    let error = format!("{:#}", Server::bind(address).unwrap_err());
    assert!(
        error.starts_with(&format!("http.listen: cannot listen on `{address}`: ")),
        "{error}"
    );
}

/// The time of the fastest probe is the server's own; a slower one is the machine's.
#[test]
fn a_probe_is_answered_at_once_beside_500_idle_connections() {
    let times = beside(|address| {
        let probe = |_| {
            let idle = (0..500).map(|_| TcpStream::connect(address).unwrap());
            let _idle: Vec<_> = idle.collect();
            // The first one comes after all of them have been accepted.
            let elapsed = [(); 2].map(|()| {
                let started = Instant::now();
                let answer = say(address, "GET /live HTTP/1.1\r\nhost: x\r\n\r\n");
                assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
                started.elapsed()
            });
            elapsed[1]
        };
        (0..5).map(probe).collect::<Vec<_>>()
    });
    let fastest = times.iter().min();
    assert!(fastest < Some(&Duration::from_millis(100)), "{times:?}");
}

#[test]
fn an_idle_connection_is_closed_after_its_time() {
    let open_for = beside(|address| {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.write_all(b"GET /live HTTP/1.1\r\n").unwrap();
        let started = Instant::now();
        let mut answer = String::new();
        // Whether it is a close or a reset says nothing.
        _ = stream.read_to_string(&mut answer);
        started.elapsed()
    });
    assert!(open_for >= HEADERS, "{open_for:?}");
    assert!(open_for < HEADERS + Duration::from_secs(2), "{open_for:?}");
}
