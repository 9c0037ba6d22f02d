//! A TCP proxy before one broker, as the network that daemons see: slow, cut, or swallowing everything.
//!
//! Brokers advertise its address to daemons alone, so that replication and the driver never notice. It knows nothing of
//! Kafka's protocol.

#![expect(
    unsafe_code,
    reason = "only a socket option makes a close end in a reset"
)]

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

const LOOK: Duration = Duration::from_millis(20);

pub(crate) struct Proxy {
    pub(crate) port: u16,
    weather: Arc<Weather>,
    accepting: Option<JoinHandle<()>>,
}

/// What the network does at this moment.
#[derive(Default)]
struct Weather {
    delay_ms: AtomicU64,
    swallows: AtomicBool,
    /// Connections of an older number are to be reset.
    resets: AtomicU64,
    /// … and the next ones in the middle of what they carry.
    cuts: AtomicBool,
    ended: AtomicBool,
    connections: AtomicU64,
    faults: Mutex<Vec<String>>,
}

impl Proxy {
    /// Listens on a port of its own, before the port of a broker that need not be there yet.
    pub(crate) fn start(listener: TcpListener, target: u16) -> Self {
        let port = listener.local_addr().unwrap().port();
        let weather = Arc::new(Weather::default());
        let seen = weather.clone();
        let accepting = std::thread::spawn(move || accept(&listener, target, &seen));
        Self {
            port,
            weather,
            accepting: Some(accepting),
        }
    }

    /// Whatever passes is that much later.
    pub(crate) fn delay(&self, delay: Duration) {
        self.weather
            .delay_ms
            .store(delay.as_millis() as u64, Ordering::Relaxed);
    }

    /// Nothing passes, and nobody is told.
    pub(crate) fn swallow(&self) {
        self.weather.swallows.store(true, Ordering::Relaxed);
    }

    /// Every connection ends in a reset.
    pub(crate) fn reset(&self) {
        self.weather.resets.fetch_add(1, Ordering::Relaxed);
    }

    /// Every connection ends in the middle of the next thing that it carries.
    pub(crate) fn cut(&self) {
        self.weather.cuts.store(true, Ordering::Relaxed);
        self.weather.resets.fetch_add(1, Ordering::Relaxed);
    }

    /// As if nothing had been; what was swallowed goes on its way.
    pub(crate) fn heal(&self) {
        self.delay(Duration::ZERO);
        self.weather.swallows.store(false, Ordering::Relaxed);
        self.weather.cuts.store(false, Ordering::Relaxed);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.weather.ended.store(true, Ordering::Relaxed);
        if let Some(accepting) = self.accepting.take() {
            drop(accepting.join());
        }
        let waited = Instant::now();
        while self.weather.connections.load(Ordering::Relaxed) > 0
            && waited.elapsed() < Duration::from_secs(5)
        {
            std::thread::sleep(LOOK);
        }
    }
}

fn accept(listener: &TcpListener, target: u16, weather: &Arc<Weather>) {
    listener.set_nonblocking(true).unwrap();
    while !weather.ended.load(Ordering::Relaxed) {
        match listener.accept() {
            Ok((client, _)) => connect(client, target, weather),
            Err(error) if error.kind() == ErrorKind::WouldBlock => std::thread::sleep(LOOK),
            Err(error) => {
                weather.faults.lock().unwrap().push(error.to_string());
                std::thread::sleep(LOOK);
            }
        }
    }
}

fn connect(client: TcpStream, target: u16, weather: &Arc<Weather>) {
    let Ok(broker) = TcpStream::connect((Ipv4Addr::LOCALHOST, target)) else {
        // The broker is away: so is whoever stands before it.
        reset(&client);
        return;
    };
    let number = weather.resets.load(Ordering::Relaxed);
    for stream in [&client, &broker] {
        stream.set_nonblocking(false).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(LOOK)).unwrap();
    }
    let ways = [
        (client.try_clone().unwrap(), broker.try_clone().unwrap()),
        (broker, client),
    ];
    for (from, to) in ways {
        let weather = weather.clone();
        weather.connections.fetch_add(1, Ordering::Relaxed);
        std::thread::spawn(move || {
            pump(from, to, number, &weather);
            weather.connections.fetch_sub(1, Ordering::Relaxed);
        });
    }
}

fn pump(mut from: TcpStream, mut to: TcpStream, number: u64, weather: &Weather) {
    let mut buffer = vec![0; 64 << 10];
    loop {
        let is_old = || weather.resets.load(Ordering::Relaxed) != number;
        let is_cut = || weather.cuts.load(Ordering::Relaxed);
        if weather.ended.load(Ordering::Relaxed) || (is_old() && !is_cut()) {
            break;
        }
        if weather.swallows.load(Ordering::Relaxed) {
            std::thread::sleep(LOOK);
            continue;
        }
        let count = match from.read(&mut buffer) {
            Ok(0) => {
                // In order: the other way may still have something to carry.
                drop(to.shutdown(Shutdown::Write));
                return;
            }
            Ok(count) => count,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                continue;
            }
            Err(_) => break,
        };
        let delay = weather.delay_ms.load(Ordering::Relaxed);
        std::thread::sleep(Duration::from_millis(delay));
        if is_old() && is_cut() {
            drop(to.write_all(&buffer[..count / 2]));
            break;
        }
        if to.write_all(&buffer[..count]).is_err() {
            break;
        }
    }
    reset(&from);
    reset(&to);
    drop(from.shutdown(Shutdown::Both));
    drop(to.shutdown(Shutdown::Both));
}

/// What is not sent yet is thrown away at the close, and the peer is told by a reset.
fn reset(stream: &TcpStream) {
    let linger = libc::linger {
        l_onoff: 1,
        l_linger: 0,
    };
    // SAFETY: the descriptor is the stream's own, and the option is read from a struct of this very type.
    unsafe {
        libc::setsockopt(
            stream.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_LINGER,
            std::ptr::from_ref(&linger).cast(),
            size_of::<libc::linger>() as libc::socklen_t,
        );
    }
}
