//! Peers that connect and say nothing, or only half of it: whoever asks is answered all the same.

#![expect(
    unsafe_code,
    reason = "only a system call lets the process have that many descriptors"
)]

use std::fs;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::dice::Dice;
use crate::stage::Stage;
use crate::support::http::get;

const HTTP: usize = 500;
const CONTROL: usize = 200;
/// The time that a server gives one idle peer.
const IDLE: Duration = Duration::from_secs(2);
/// A server that waited for these hundreds of peers would take minutes. A machine that is busy with a storm takes
/// seconds for anything; a test of the server itself has the bound of an idle machine.
const IN_TIME: Duration = Duration::from_secs(10);
/// How `/proc/net/tcp` and `/proc/net/unix` tell a socket that accepts.
const LISTENS: &str = "0A";
const LISTENS_UNIX: &str = "00010000";
const PAUSE: Duration = Duration::from_millis(100);

/// One member has them all the time: what it closes is opened again.
pub(crate) fn crowd(stage: &mut Stage, dice: &mut Dice) {
    allow_descriptors();
    let index = dice.below(stage.fleet.members.len());
    let mut address = None;
    stage.wait("the HTTP server listens", IDLE * 10, |stage| {
        address = stage.fleet.members[index].http_address();
        address.is_some()
    });
    let address = address.expect("it was waited for");
    let socket = stage.fleet.members[index].place().path("moontide.sock");
    let mut http: Vec<TcpStream> = Vec::new();
    let mut control: Vec<UnixStream> = Vec::new();
    let until = Instant::now() + dice.time(4000..8000);
    while Instant::now() < until {
        let filled = fill(&mut http, HTTP, || http_peer(&address))
            .and_then(|()| fill(&mut control, CONTROL, || control_peer(&socket)));
        if let Err(error) = filled {
            stage.fail(&format!("an idle peer cannot connect: {error}"));
        }
        probe(stage, index, &address);
        stage.pass(PAUSE);
    }
    if accepted(&address, &socket) == 0 {
        stage.fail("the servers accept none of the idle peers");
    }
    drop((http, control));
    stage.wait("the idle connections are closed", IDLE * 10, |_| {
        accepted(&address, &socket) == 0
    });
}

/// Connections that a server of the member has accepted and not closed, as the system tells. The number of descriptors
/// would not do: clients of Kafka connect at their first use.
fn accepted(address: &str, socket: &Path) -> usize {
    let port = address
        .rsplit(':')
        .next()
        .and_then(|port| port.parse().ok());
    let port: u16 = port.expect("an address has a port");
    let (end, socket) = (format!(":{port:04X}"), socket.display().to_string());
    let is_http = |line: &&str| {
        let fields: Vec<_> = line.split_whitespace().collect();
        // Its own address, its state, the inode that it has from the acceptance on.
        matches!(fields[..], [_, own, _, state, _, _, _, _, _, inode, ..]
            if own.ends_with(&end) && state != LISTENS && inode != "0")
    };
    let is_control = |line: &&str| {
        let fields: Vec<_> = line.split_whitespace().collect();
        matches!(fields[..], [_, _, _, flags, _, _, _, path]
            if path == socket && flags != LISTENS_UNIX)
    };
    let read = |path| fs::read_to_string(path).expect("Linux tells its sockets");
    let (tcp, unix) = (read("/proc/net/tcp"), read("/proc/net/unix"));
    tcp.lines().filter(is_http).count() + unix.lines().filter(is_control).count()
}

/// `/live` and the status are told in time.
fn probe(stage: &mut Stage, index: usize, address: &str) {
    let asked = Instant::now();
    let answer = get(address, "/live");
    let live = asked.elapsed();
    let asked = Instant::now();
    let told = stage.fleet.members[index].command(&["status", "--json"]);
    let status = asked.elapsed();
    if answer.code != 200 || !told.status.success() || live > IN_TIME || status > IN_TIME {
        stage.fail(&format!(
            "beside idle connections /live is {} after {live:?}, the status {:?} after {status:?}",
            answer.code, told.status
        ));
    }
}

/// A peer of ours that can be asked whether the other side has closed it.
trait Peer: Read {
    fn unblock(&self) -> io::Result<()>;
}

impl Peer for TcpStream {
    fn unblock(&self) -> io::Result<()> {
        self.set_nonblocking(true)
    }
}

impl Peer for UnixStream {
    fn unblock(&self) -> io::Result<()> {
        self.set_nonblocking(true)
    }
}

/// Opens as many as are missing.
fn fill<P: Peer>(
    peers: &mut Vec<P>,
    count: usize,
    mut open: impl FnMut() -> io::Result<P>,
) -> io::Result<()> {
    peers.retain_mut(is_open);
    while peers.len() < count {
        let peer = open()?;
        peer.unblock()?;
        peers.push(peer);
    }
    Ok(())
}

fn is_open(peer: &mut impl Peer) -> bool {
    let read = peer.read(&mut [0; 64]);
    matches!(read, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
}

fn http_peer(address: &str) -> io::Result<TcpStream> {
    let mut stream = TcpStream::connect(address)?;
    // The server may have closed it already.
    if stream.local_addr()?.port().is_multiple_of(2) {
        drop(stream.write_all(b"GET /live HTTP/1.1\r\nhost: x\r\n"));
    }
    Ok(stream)
}

fn control_peer(socket: &Path) -> io::Result<UnixStream> {
    UnixStream::connect(socket)
}

/// As many as the system lets this process have.
fn allow_descriptors() {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: both calls get a struct of their own type, which lives longer than they last.
    let result = unsafe {
        libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit);
        limit.rlim_cur = limit.rlim_max;
        libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit)
    };
    assert_eq!(result, 0, "{}", io::Error::last_os_error());
}
