//! An HTTP server for tests, on threads of its own. **The path of a request says how it is answered**, also badly.
//!
//! It counts its sockets itself. The lib's tests have this file, too, so it uses nothing of the other support.

#![allow(dead_code, reason = "the two suites use different parts")]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use openssl::asn1::Asn1Time;
use openssl::bn::BigNum;
use openssl::hash::MessageDigest;
use openssl::pkey::{PKey, Private};
use openssl::rsa::Rsa;
use openssl::ssl::{SslAcceptor, SslMethod, SslStream, SslVerifyMode};
use openssl::x509::extension::SubjectAlternativeName;
use openssl::x509::store::X509StoreBuilder;
use openssl::x509::{X509, X509NameBuilder};

/// A request as it came.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) method: String,
    pub(crate) path: String,
    /// The names are in lower case.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Seen {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut headers = self.headers.iter();
        let found = headers.find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str())
    }
}

#[derive(Default)]
struct State {
    open: AtomicUsize,
    accepted: AtomicUsize,
    seen: Mutex<Vec<Seen>>,
    /// While it is set, `/sick` answers 503 and `/away` closes the connection.
    is_sick: AtomicBool,
    ends: AtomicBool,
}

/// The server; its drop ends it.
pub(crate) struct Web {
    address: SocketAddr,
    state: Arc<State>,
}

impl Drop for Web {
    fn drop(&mut self) {
        self.state.ends.store(true, Ordering::SeqCst);
        // Wakes the accept.
        let _ = TcpStream::connect(self.address);
    }
}

/// A certificate for `localhost` and 127.0.0.1, which is its own authority.
pub(crate) struct Identity {
    pub(crate) key: PKey<Private>,
    pub(crate) cert: X509,
}

impl Identity {
    pub(crate) fn new(host: &str) -> Self {
        let key = PKey::from_rsa(Rsa::generate(2048).unwrap()).unwrap();
        let mut name = X509NameBuilder::new().unwrap();
        name.append_entry_by_text("CN", host).unwrap();
        let name = name.build();
        let mut cert = X509::builder().unwrap();
        cert.set_version(2).unwrap();
        cert.set_subject_name(&name).unwrap();
        cert.set_issuer_name(&name).unwrap();
        cert.set_pubkey(&key).unwrap();
        let number = BigNum::from_u32(1).unwrap().to_asn1_integer().unwrap();
        cert.set_serial_number(&number).unwrap();
        cert.set_not_before(&Asn1Time::days_from_now(0).unwrap())
            .unwrap();
        cert.set_not_after(&Asn1Time::days_from_now(2).unwrap())
            .unwrap();
        let mut names = SubjectAlternativeName::new();
        let names = match host.parse::<std::net::IpAddr>() {
            Ok(_) => names.ip(host),
            Err(_) => names.dns(host),
        };
        let names = names.build(&cert.x509v3_context(None, None)).unwrap();
        cert.append_extension(names).unwrap();
        cert.sign(&key, MessageDigest::sha256()).unwrap();
        let cert = cert.build();
        Self { key, cert }
    }

    pub(crate) fn cert_pem(&self) -> String {
        String::from_utf8(self.cert.to_pem().unwrap()).unwrap()
    }

    pub(crate) fn key_pem(&self) -> String {
        String::from_utf8(self.key.private_key_to_pem_pkcs8().unwrap()).unwrap()
    }

    /// Encrypted with this passphrase.
    pub(crate) fn key_pem_of(&self, passphrase: &str) -> String {
        let cipher = openssl::symm::Cipher::aes_128_cbc();
        let pem = self
            .key
            .private_key_to_pem_pkcs8_passphrase(cipher, passphrase.as_bytes());
        String::from_utf8(pem.unwrap()).unwrap()
    }
}

trait Stream: Read + Write + Send {
    fn socket(&self) -> &TcpStream;
}

impl Stream for TcpStream {
    fn socket(&self) -> &TcpStream {
        self
    }
}

impl Stream for SslStream<TcpStream> {
    fn socket(&self) -> &TcpStream {
        self.get_ref()
    }
}

impl Web {
    pub(crate) fn start() -> Self {
        Self::start_with(None)
    }

    /// With TLS. A client must show the certificate of `client`, if there is one.
    pub(crate) fn start_tls(own: &Identity, client: Option<&Identity>) -> Self {
        let mut acceptor = SslAcceptor::mozilla_intermediate_v5(SslMethod::tls_server()).unwrap();
        acceptor.set_private_key(&own.key).unwrap();
        acceptor.set_certificate(&own.cert).unwrap();
        if let Some(client) = client {
            let mut store = X509StoreBuilder::new().unwrap();
            store.add_cert(client.cert.clone()).unwrap();
            acceptor.set_verify_cert_store(store.build()).unwrap();
            acceptor.set_verify(SslVerifyMode::PEER | SslVerifyMode::FAIL_IF_NO_PEER_CERT);
        }
        Self::start_with(Some(acceptor.build()))
    }

    fn start_with(acceptor: Option<SslAcceptor>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(State::default());
        let own = state.clone();
        spawn(move || {
            for stream in listener.incoming() {
                if own.ends.load(Ordering::SeqCst) {
                    return;
                }
                let Ok(stream) = stream else { return };
                let (state, acceptor) = (own.clone(), acceptor.clone());
                state.accepted.fetch_add(1, Ordering::SeqCst);
                state.open.fetch_add(1, Ordering::SeqCst);
                spawn(move || {
                    match acceptor {
                        None => serve(stream, &state),
                        Some(acceptor) => {
                            if let Ok(stream) = acceptor.accept(stream) {
                                serve(stream, &state);
                            }
                        }
                    }
                    state.open.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        Self { address, state }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Sockets that are open now.
    pub(crate) fn open(&self) -> usize {
        self.state.open.load(Ordering::SeqCst)
    }

    /// Sockets since the start.
    pub(crate) fn accepted(&self) -> usize {
        self.state.accepted.load(Ordering::SeqCst)
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.state.seen.lock().unwrap().clone()
    }

    /// The requests for paths that begin so.
    pub(crate) fn seen_at(&self, path: &str) -> Vec<Seen> {
        let mut seen = self.seen();
        seen.retain(|one| one.path.starts_with(path));
        seen
    }

    pub(crate) fn set_sick(&self, is_sick: bool) {
        self.state.is_sick.store(is_sick, Ordering::SeqCst);
    }
}

/// Many requests may hang at once, so a thread has a small stack.
fn spawn(work: impl FnOnce() + Send + 'static) {
    let builder = thread::Builder::new().stack_size(256 << 10);
    builder.spawn(work).unwrap();
}

fn read_until(
    stream: &mut dyn Stream,
    buffer: &mut Vec<u8>,
    enough: impl Fn(&[u8]) -> bool,
) -> bool {
    let mut bytes = [0; 8192];
    while !enough(buffer) {
        match stream.read(&mut bytes) {
            Ok(0) | Err(_) => return false,
            Ok(count) => buffer.extend_from_slice(&bytes[..count]),
        }
    }
    true
}

fn head_end(buffer: &[u8]) -> Option<usize> {
    buffer
        .windows(4)
        .position(|four| four == b"\r\n\r\n")
        .map(|at| at + 4)
}

/// The next request of a connection.
fn next(stream: &mut dyn Stream, buffer: &mut Vec<u8>) -> Option<Seen> {
    if !read_until(stream, buffer, |buffer| head_end(buffer).is_some()) {
        return None;
    }
    let end = head_end(buffer)?;
    let head = String::from_utf8_lossy(&buffer[..end]).into_owned();
    let mut lines = head.lines();
    let mut first = lines.next()?.split(' ');
    let (method, path) = (first.next()?.to_owned(), first.next()?.to_owned());
    let headers: Vec<_> = lines
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
        .collect();
    let mut seen = Seen {
        method,
        path,
        headers,
        body: Vec::new(),
    };
    let length: usize = seen
        .header("content-length")
        .map_or(0, |length| length.parse().unwrap());
    if !read_until(stream, buffer, |buffer| buffer.len() >= end + length) {
        return None;
    }
    seen.body = buffer[end..end + length].to_vec();
    buffer.drain(..end + length);
    Some(seen)
}

fn serve(mut stream: impl Stream + 'static, state: &State) {
    let mut buffer = Vec::new();
    let mut is_last = false;
    while let Some(seen) = next(&mut stream, &mut buffer) {
        state.seen.lock().unwrap().push(seen.clone());
        if is_last {
            // As a server that closes an idle connection while a request is on its way.
            return;
        }
        if seen.method == "CONNECT" {
            return tunnel(stream, &seen.path);
        }
        // A proxy is asked with a whole URL.
        let path = match seen.path.strip_prefix("http://") {
            Some(rest) => rest.find('/').map_or("/", |at| &rest[at..]).to_owned(),
            None => seen.path.clone(),
        };
        is_last = path.starts_with("/once");
        if answer(&mut stream, &seen, &path, state).is_none() {
            return;
        }
    }
}

fn respond(stream: &mut dyn Stream, status: u16, headers: &str, body: &[u8]) -> Option<()> {
    let length = body.len();
    let head = format!("HTTP/1.1 {status} X\r\ncontent-length: {length}\r\n{headers}\r\n");
    stream.write_all(head.as_bytes()).ok()?;
    stream.write_all(body).ok()?;
    stream.flush().ok()
}

fn number(path: &str) -> u64 {
    let last = path.split('/').nth(2).unwrap_or_default();
    last.split('?')
        .next()
        .and_then(|text| text.parse().ok())
        .unwrap_or(0)
}

/// `None` where the connection ends.
fn answer(stream: &mut dyn Stream, seen: &Seen, path: &str, state: &State) -> Option<()> {
    let (name, query) = path.split_once('?').unwrap_or((path, ""));
    match name.split('/').nth(1).unwrap_or_default() {
        "echo" => respond(stream, 200, "", &seen.body),
        "status" => respond(stream, number(path) as u16, "", b"as it was asked for"),
        "sick" if state.is_sick.load(Ordering::SeqCst) => respond(stream, 503, "", b"sick"),
        "away" if state.is_sick.load(Ordering::SeqCst) => None,
        "slow" => {
            thread::sleep(Duration::from_millis(number(path)));
            respond(stream, 200, "", b"slow")
        }
        // Answers, and closes the idle connection after that many milliseconds.
        "idle" => {
            respond(stream, 200, "", b"idle")?;
            thread::sleep(Duration::from_millis(number(path)));
            None
        }
        "gzip" => gzip(stream, b"hello"),
        "bomb" => gzip(stream, &vec![0; 64 << 20]),
        "notgzip" => respond(stream, 200, "content-encoding: gzip\r\n", b"hello"),
        "loop" => respond(stream, 302, &format!("location: {path}\r\n"), b""),
        "to" => respond(
            stream,
            number(path) as u16,
            &format!("location: {query}\r\n"),
            b"",
        ),
        "repeated" => {
            let headers = "Set-Cookie: a=1\r\nSet-Cookie: b=2\r\nX-Own: Yes\r\n";
            respond(stream, 200, headers, b"")
        }
        "customers" => match name.rsplit('/').next() {
            Some("ada") => respond(stream, 200, "", br#"{ "city": "Lyon" }"#),
            Some("bob") => respond(stream, 200, "", br#"{ "city": "Oslo" }"#),
            _ => respond(stream, 404, "", b""),
        },
        // Takes a request when it comes again.
        "shipments"
            if seen.method == "POST" && seen.body.windows(7).any(|one| one == b"nowhere") =>
        {
            respond(stream, 409, "", b"")
        }
        "hooks" | "shipments" => {
            let key = seen.header("idempotency-key");
            let all = state.seen.lock().unwrap().clone();
            let same = all
                .iter()
                .filter(|one| one.header("idempotency-key") == key);
            let status = if same.count() > 1 { 200 } else { 503 };
            respond(stream, status, "", b"")
        }
        "json" => respond(
            stream,
            200,
            "content-type: application/json\r\n",
            br#"{"a":[1,null]}"#,
        ),
        name => answer_badly(stream, name),
    }
}

/// Any other path is answered well, in a word.
fn answer_badly(stream: &mut dyn Stream, name: &str) -> Option<()> {
    match name {
        "hang" => {
            let mut rest = Vec::new();
            let _ = stream.read_to_end(&mut rest);
            None
        }
        "drip" => {
            stream
                .write_all(b"HTTP/1.1 200 X\r\ncontent-length: 100000\r\n\r\n")
                .ok()?;
            loop {
                stream.write_all(b"x").ok()?;
                stream.flush().ok()?;
                thread::sleep(Duration::from_millis(2));
            }
        }
        "half" => {
            stream
                .write_all(b"HTTP/1.1 200 X\r\ncontent-length: 100\r\n\r\nhalf")
                .ok()?;
            None
        }
        "die" => None,
        "garbage" => {
            stream.write_all(b"SSH-2.0-OpenSSH_9.9\r\n\r\n").ok()?;
            None
        }
        "huge" => {
            stream
                .write_all(b"HTTP/1.1 200 X\r\ncontent-length: 10737418240\r\n\r\n")
                .ok()?;
            endless(stream, |stream, bytes| stream.write_all(bytes).ok())
        }
        "chunks" => {
            stream
                .write_all(b"HTTP/1.1 200 X\r\ntransfer-encoding: chunked\r\n\r\n")
                .ok()?;
            endless(stream, |stream, bytes| {
                let size = format!("{:x}\r\n", bytes.len());
                stream.write_all(size.as_bytes()).ok()?;
                stream.write_all(bytes).ok()?;
                stream.write_all(b"\r\n").ok()
            })
        }
        _ => respond(stream, 200, "", b"ok"),
    }
}

fn endless(
    stream: &mut dyn Stream,
    send: impl Fn(&mut dyn Stream, &[u8]) -> Option<()>,
) -> Option<()> {
    let bytes = vec![b'x'; 64 << 10];
    loop {
        send(stream, &bytes)?;
    }
}

fn gzip(stream: &mut dyn Stream, body: &[u8]) -> Option<()> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(body).unwrap();
    let bytes = encoder.finish().unwrap();
    respond(stream, 200, "content-encoding: gzip\r\n", &bytes)
}

/// A proxy's tunnel.
fn tunnel(mut stream: impl Stream + 'static, to: &str) {
    // The name stands for this machine: a proxy looks names up.
    let to = to
        .replace("server.test", "127.0.0.1")
        .replace("localhost", "127.0.0.1");
    let Ok(mut other) = TcpStream::connect(to) else {
        let _ = respond(&mut stream, 502, "", b"");
        return;
    };
    if stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").is_err() {
        return;
    }
    // One direction after the other would stand still, so both are polled.
    let pause = Some(Duration::from_millis(2));
    other.set_read_timeout(pause).unwrap();
    stream.socket().set_read_timeout(pause).unwrap();
    let mut bytes = [0; 8192];
    loop {
        match other.read(&mut bytes) {
            Ok(0) => return,
            Ok(count) => {
                if stream.write_all(&bytes[..count]).is_err() {
                    return;
                }
            }
            Err(error) if is_pause(&error) => {}
            Err(_) => return,
        }
        match stream.read(&mut bytes) {
            Ok(0) => return,
            Ok(count) => {
                if other.write_all(&bytes[..count]).is_err() {
                    return;
                }
            }
            Err(error) if is_pause(&error) => {}
            Err(_) => return,
        }
    }
}

fn is_pause(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{TimedOut, WouldBlock};
    matches!(error.kind(), TimedOut | WouldBlock)
}
