//! A network that knows Kafka's requests: the one that ends a transaction arrives late, or its answer never does.
//!
//! A client that commits again, or that begins another transaction with the same producer, has records twice here.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::{BODY, CONSUMER, check, messages};
use crate::support::daemon::Daemon;
use crate::support::kafka::{Kafka, free_port, unique};
use crate::support::project::{Project, from_beginning};
use crate::support::wait::{DEADLINE, wait_for};

/// The key of `EndTxn`.
const END: i16 = 26;
const LOOK: Duration = Duration::from_millis(20);

/// What happens to an `EndTxn`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    None,
    /// The client's connection ends, and the request arrives a moment later.
    Late(u64),
    /// It arrives after the client has given it up.
    Held(u64),
    /// It arrives, and the client hears nothing.
    Swallowed,
}

struct Proxy {
    port: u16,
    faults: Mutex<fastrand::Rng>,
    /// So many of 100 requests.
    percent: AtomicU64,
    done: AtomicU64,
    ended: AtomicBool,
}

impl Proxy {
    fn start(listener: TcpListener, broker: u16) -> Arc<Self> {
        let proxy = Arc::new(Self {
            port: listener.local_addr().unwrap().port(),
            faults: Mutex::new(fastrand::Rng::with_seed(7)),
            percent: AtomicU64::new(0),
            done: AtomicU64::new(0),
            ended: AtomicBool::new(false),
        });
        let own = proxy.clone();
        std::thread::spawn(move || {
            for client in listener.incoming() {
                if own.ended.load(Ordering::Relaxed) {
                    return;
                }
                let client = client.unwrap();
                if let Ok(broker) = TcpStream::connect((Ipv4Addr::LOCALHOST, broker)) {
                    own.connect(client, broker);
                }
            }
        });
        proxy
    }

    fn connect(self: &Arc<Self>, client: TcpStream, broker: TcpStream) {
        for stream in [&client, &broker] {
            stream.set_nodelay(true).unwrap();
        }
        let is_silent = Arc::new(AtomicBool::new(false));
        let (from, to) = (client.try_clone().unwrap(), broker.try_clone().unwrap());
        let (own, silent) = (self.clone(), is_silent.clone());
        std::thread::spawn(move || own.requests(from, to, &silent));
        std::thread::spawn(move || responses(broker, client, &is_silent));
    }

    fn fault(&self) -> Fault {
        let mut dice = self.faults.lock().unwrap();
        if dice.u64(..100) >= self.percent.load(Ordering::Relaxed) {
            return Fault::None;
        }
        self.done.fetch_add(1, Ordering::Relaxed);
        match dice.u64(..10) {
            0..=5 => Fault::Late(dice.u64(20..400)),
            6..=7 => Fault::Held(dice.u64(2_100..3_000)),
            _ => Fault::Swallowed,
        }
    }

    fn requests(&self, mut from: TcpStream, mut to: TcpStream, is_silent: &AtomicBool) {
        let mut size = [0; 4];
        while from.read_exact(&mut size).is_ok() {
            let length = u32::from_be_bytes(size) as usize;
            let mut request = vec![0; length];
            if from.read_exact(&mut request).is_err() {
                break;
            }
            let key = i16::from_be_bytes([request[0], request[1]]);
            let fault = if key == END {
                self.fault()
            } else {
                Fault::None
            };
            match fault {
                Fault::None => {}
                Fault::Late(ms) => {
                    is_silent.store(true, Ordering::Relaxed);
                    drop(from.shutdown(Shutdown::Both));
                    std::thread::sleep(Duration::from_millis(ms));
                }
                Fault::Held(ms) => std::thread::sleep(Duration::from_millis(ms)),
                Fault::Swallowed => is_silent.store(true, Ordering::Relaxed),
            }
            if to.write_all(&size).is_err() || to.write_all(&request).is_err() {
                break;
            }
            if matches!(fault, Fault::Late(_)) {
                // Until the broker has read it.
                std::thread::sleep(LOOK);
                break;
            }
        }
        drop(to.shutdown(Shutdown::Both));
        drop(from.shutdown(Shutdown::Both));
    }
}

fn responses(mut from: TcpStream, mut to: TcpStream, is_silent: &AtomicBool) {
    let mut buffer = vec![0; 64 << 10];
    loop {
        match from.read(&mut buffer) {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Ok(0) | Err(_) => break,
            Ok(_) if is_silent.load(Ordering::Relaxed) => {}
            Ok(count) => {
                if to.write_all(&buffer[..count]).is_err() {
                    break;
                }
            }
        }
    }
    drop(to.shutdown(Shutdown::Both));
}

/// A broker whose address is that of the proxy.
fn behind_a_proxy() -> Option<(Kafka, Arc<Proxy>)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let (proxy, behind) = (listener.local_addr().unwrap().port(), free_port());
    let lines = [
        format!(
            "listeners=PLAINTEXT://127.0.0.1:@BROKER@,PROXIED://127.0.0.1:{behind},CONTROLLER://127.0.0.1:@CONTROLLER@"
        ),
        format!("advertised.listeners=PLAINTEXT://127.0.0.1:@BROKER@,PROXIED://127.0.0.1:{proxy}"),
        "listener.security.protocol.map=PLAINTEXT:PLAINTEXT,PROXIED:PLAINTEXT,CONTROLLER:PLAINTEXT"
            .to_owned(),
    ];
    let kafka = Kafka::start_own_with(&format!("\n{}\n", lines.join("\n")))?;
    Some((kafka, Proxy::start(listener, behind)))
}

#[test]
fn what_messages_emit_is_there_once_although_ends_of_transactions_arrive_late() {
    let Some((kafka, proxy)) = behind_a_proxy() else {
        return;
    };
    let source = kafka.topic_named(unique("source"), 1).name;
    let out = kafka.topic_named(unique("out"), 2).name;
    let project = Project::at(format!("127.0.0.1:{}", proxy.port)).consumer(CONSUMER);
    crate::sends::sender(&project, &out, BODY);
    let listeners = from_beginning("sender", &source, "sender");
    project.config(&(listeners + "ordering = \"key\"\n"));
    let mut daemon = Daemon::start(&project);
    daemon.wait_line("an assignment", |line| line.is("assigned"));
    proxy.percent.store(60, Ordering::Relaxed);
    let mut count = 0;
    while proxy.done.load(Ordering::Relaxed) < 14 {
        kafka
            .existing_topic(&source)
            .produce(messages(count..count + 20));
        count += 20;
        std::thread::sleep(Duration::from_millis(100));
    }
    proxy.percent.store(0, Ordering::Relaxed);
    wait_for("all is committed", DEADLINE, || {
        kafka.committed(&project.group, &source, 0) == Some(count as i64)
    });
    let records = kafka.read(&out, 2, 2 * count as usize);
    check(&records, 0..count);
    let status = daemon.status();
    let transactions = &status["consumers"][0]["transactions"];
    assert!(transactions["unknown"].as_u64() > Some(0), "{transactions}");
    assert!(
        transactions["replaced"].as_u64() > Some(4),
        "{transactions}"
    );
    daemon.stop();
    proxy.ended.store(true, Ordering::Relaxed);
}
