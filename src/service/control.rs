//! The control socket: `moontide.sock` in the runtime directory, by which the command line talks to the daemon.
//!
//! One request a connection: the client sends one line of JSON, the daemon answers with one. The socket carries
//! [`Request`] and [`Response`], and does not depend on their meaning. Invariants: a runtime directory has one
//! daemon. A lock decides, not the socket, which a killed process leaves behind. Only the daemon's user can talk to
//! it. A peer that sends nothing, or too much, costs a bounded time and memory, and delays no other peer. A deleted
//! socket is created again.

mod who;

use std::fs::{Permissions, TryLockError};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{self, Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{MissedTickBehavior, timeout};

use crate::config::{SOCKET, SOCKET_PATH_BYTES_MAX};
use crate::files::own_folder::{self, Lock};
use crate::log::log;
use crate::rate_limit::RateLimit;
use crate::telemetry::connections::{Connections, Seat, lengthen_backlog};
use crate::telemetry::status::{Answer, Identity, Request, Response};

pub(crate) use who::Who;

const LOCK: &str = "moontide.lock";

const CONNECTIONS_MAX: usize = 64;
const REQUEST_BYTES_MAX: u64 = 64 << 10;
/// The size of a status with some hundred thousand partitions.
const RESPONSE_BYTES_MAX: usize = 64 << 20;
/// The limit for the peer to send its line, and again to read the answer.
const PEER_DEADLINE: Duration = Duration::from_secs(2);
/// The limit for the daemon's answer: a reload may wait for a bundle that still drains.
const ANSWER_DEADLINE: Duration = Duration::from_secs(600);
/// The interval at which the existence of the socket's file is checked.
const LOOK: Duration = Duration::from_secs(1);
/// Without file descriptors every accept fails at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// A request, its peer, and the channel for its answer.
#[derive(Debug)]
pub(crate) struct Ask {
    pub(crate) request: Request,
    pub(crate) who: Who,
    pub(crate) answer: oneshot::Sender<Response>,
}

/// The daemon's side; dropping it removes the socket.
#[derive(Debug)]
pub(crate) struct Server {
    listener: UnixListener,
    path: PathBuf,
    /// A part of each answer.
    identity: Identity,
    /// Device and inode of the socket's file.
    file: (u64, u64),
    /// Limits the log lines about a socket that cannot be created again.
    failures: RateLimit,
    /// Held during the life of the server.
    _lock: Lock,
}

impl Server {
    /// Takes the runtime directory, and creates it if it is missing. `config` is the configuration of this daemon.
    pub(crate) fn bind(directory: &Path, config: &Path) -> Result<Self> {
        let path = socket_path(directory)?;
        own_folder::make(directory).with_context(|| {
            let directory = directory.display();
            format!("cannot use runtime directory `{directory}`; `daemon.runtimeDirectory` names another")
        })?;
        let lock = lock(directory)?;
        // This process has the lock, so a socket is a leftover, unless the lock's file was deleted under a running
        // daemon.
        match UnixStream::connect(&path) {
            Ok(_) => bail!(
                "another daemon runs with runtime directory `{}`",
                directory.display()
            ),
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(_) => std::fs::remove_file(&path).with_context(|| {
                format!("cannot remove the old control socket `{}`", path.display())
            })?,
        }
        let (listener, file) = listen(&path)
            .with_context(|| format!("cannot create control socket `{}`", path.display()))?;
        Ok(Self {
            listener,
            path,
            identity: Identity {
                pid: std::process::id(),
                // A client may have another working directory.
                config: path::absolute(config)
                    .unwrap_or_else(|_| config.to_owned())
                    .display()
                    .to_string(),
            },
            file,
            failures: RateLimit::new(1, Duration::from_secs(60)),
            _lock: lock,
        })
    }

    /// Answers requests until the receiver of `requests` is gone.
    pub(crate) async fn serve(mut self, requests: mpsc::Sender<Ask>) -> Result<()> {
        let mut listener = self.listener()?;
        let mut connections = Connections::new(CONNECTIONS_MAX);
        let mut look = tokio::time::interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                accepted = listener.accept(), if connections.has_room() => match accepted {
                    Ok((stream, _)) => {
                        let (requests, identity) = (requests.clone(), self.identity.clone());
                        connections.add(|seat| converse(stream, requests, identity, seat)).await;
                    }
                    Err(error) => {
                        log!(warn, control, %error, "control socket cannot accept a connection");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                },
                () = connections.one_ends() => {}
                _ = look.tick() => {
                    if self.restore() {
                        listener = self.listener()?;
                    }
                }
                () = requests.closed() => return Ok(()),
            }
        }
    }

    fn listener(&self) -> Result<tokio::net::UnixListener> {
        let listener = self
            .listener
            .try_clone()
            .and_then(tokio::net::UnixListener::from_std);
        listener.with_context(|| format!("control socket `{}`", self.path.display()))
    }

    /// Creates the socket again if its file was deleted, and returns whether it did. The file of another process
    /// stays.
    fn restore(&mut self) -> bool {
        let is_missing = std::fs::symlink_metadata(&self.path)
            .is_err_and(|error| error.kind() == ErrorKind::NotFound);
        if !is_missing {
            return false;
        }
        let directory = self.path.parent().unwrap_or(Path::new("/"));
        let made = own_folder::make(directory).and_then(|()| listen(&self.path));
        let path = self.path.display();
        match made {
            Ok((listener, file)) => {
                (self.listener, self.file) = (listener, file);
                log!(warn, control, %path, "the control socket was deleted: creating it again");
                true
            }
            Err(error) => {
                if self.failures.allow(Instant::now()).is_some() {
                    log!(warn, control, %path, %error, "the control socket was deleted and cannot be created again");
                }
                false
            }
        }
    }
}

/// Binds a socket at this path for its owner alone, and returns the identity of its file.
fn listen(path: &Path) -> std::io::Result<(UnixListener, (u64, u64))> {
    let listener = UnixListener::bind(path)?;
    lengthen_backlog(&listener)?;
    std::fs::set_permissions(path, Permissions::from_mode(0o600))?;
    listener.set_nonblocking(true)?;
    Ok((listener, file_at(path)?))
}

fn file_at(path: &Path) -> std::io::Result<(u64, u64)> {
    let meta = std::fs::symlink_metadata(path)?;
    Ok((meta.dev(), meta.ino()))
}

impl Drop for Server {
    fn drop(&mut self) {
        // The socket of another process stays.
        if file_at(&self.path).is_ok_and(|file| file == self.file) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Whether a daemon answers in this runtime directory.
pub(crate) fn answers(directory: &Path) -> bool {
    UnixStream::connect(directory.join(SOCKET)).is_ok()
}

/// Sends a request to the daemon of a runtime directory.
pub(crate) fn ask(directory: &Path, request: &Request, deadline: Duration) -> Result<Answer> {
    let until = Instant::now() + deadline;
    let path = socket_path(directory)?;
    let mut stream = UnixStream::connect(&path).map_err(|error| match error.kind() {
        ErrorKind::NotFound | ErrorKind::ConnectionRefused => {
            let directory = directory.display();
            anyhow!("no daemon runs with runtime directory `{directory}`; start it with `moontide run`")
        }
        ErrorKind::PermissionDenied => {
            let path = path.display();
            anyhow!("control socket `{path}`: permission denied; run the command as the daemon's user or as root")
        }
        _ => anyhow!(error).context(format!("control socket `{}`", path.display())),
    })?;
    let mut line = serde_json::to_vec(request)?;
    line.push(b'\n');
    let answer = stream
        .set_write_timeout(Some(PEER_DEADLINE))
        .and_then(|()| stream.write_all(&line));
    let answer = answer
        .and_then(|()| read_line(&mut stream, until))
        .map_err(|error| match error.kind() {
            ErrorKind::WouldBlock | ErrorKind::TimedOut => {
                anyhow!(
                    "the daemon has not answered within {} s; the request may still be under way",
                    deadline.as_secs()
                )
            }
            _ => anyhow!(error).context("the daemon ended before it answered"),
        })?;
    serde_json::from_slice(&answer).context("the answer of the daemon is of another version")
}

fn socket_path(directory: &Path) -> Result<PathBuf> {
    let path = directory.join(SOCKET);
    let bytes = path.as_os_str().as_bytes().len();
    ensure!(
        bytes <= SOCKET_PATH_BYTES_MAX,
        "control socket `{}`: the path has {bytes} bytes, a socket's may have {SOCKET_PATH_BYTES_MAX}; set \
         `daemon.runtimeDirectory` to a shorter one",
        path.display()
    );
    Ok(path)
}

fn lock(directory: &Path) -> Result<Lock> {
    let path = directory.join(LOCK);
    let place = || format!("cannot lock `{}`", path.display());
    let lock = match Lock::take(&path) {
        Ok(lock) => lock,
        Err(TryLockError::WouldBlock) => {
            // Only for the error message; the file is empty for a moment after the lock is taken.
            let pid = match std::fs::read_to_string(&path).unwrap_or_default().trim() {
                "" => String::new(),
                pid => format!(", pid {pid}"),
            };
            bail!(
                "another daemon runs with runtime directory `{}`{pid}",
                directory.display()
            );
        }
        Err(TryLockError::Error(error)) => return Err(error).with_context(place),
    };
    let mut file = lock.file();
    file.set_len(0)
        .and_then(|()| writeln!(file, "{}", std::process::id()))
        .with_context(place)?;
    Ok(lock)
}

/// One connection, from its request to its answer.
async fn converse(
    mut stream: tokio::net::UnixStream,
    requests: mpsc::Sender<Ask>,
    daemon: Identity,
    seat: Seat,
) {
    let who = Who::of(&stream);
    let (reader, mut writer) = stream.split();
    let mut line = Vec::new();
    let mut reader = BufReader::new(reader.take(REQUEST_BYTES_MAX));
    let response = match timeout(PEER_DEADLINE, reader.read_until(b'\n', &mut line)).await {
        // The peer only checked for a daemon, or closed the connection.
        Ok(Ok(0) | Err(_)) => return,
        Err(_) => Response::Error(format!("no request within {} s", PEER_DEADLINE.as_secs())),
        Ok(Ok(length)) if length as u64 == REQUEST_BYTES_MAX => Response::Error(format!(
            "the request has more than {REQUEST_BYTES_MAX} bytes"
        )),
        Ok(Ok(_)) => match serde_json::from_slice(&line) {
            Ok(request) => {
                seat.busy();
                let response = answer(request, who, &requests).await;
                seat.idle();
                response
            }
            Err(error) => Response::Error(format!("bad request: {error}")),
        },
    };
    let answer = Answer { daemon, response };
    let Ok(mut line) = serde_json::to_vec(&answer) else {
        return;
    };
    line.push(b'\n');
    // A peer that closed the connection or does not read loses its answer.
    let _ = timeout(PEER_DEADLINE, writer.write_all(&line)).await;
}

async fn answer(request: Request, who: Who, requests: &mpsc::Sender<Ask>) -> Response {
    let (sender, receiver) = oneshot::channel();
    let ask = Ask {
        request,
        who,
        answer: sender,
    };
    let asked = async {
        requests.send(ask).await.ok()?;
        receiver.await.ok()
    };
    match timeout(ANSWER_DEADLINE, asked).await {
        Ok(Some(response)) => response,
        Ok(None) => Response::Error("moontide is stopping".into()),
        Err(_) => Response::Error(format!("no answer within {} s", ANSWER_DEADLINE.as_secs())),
    }
}

fn read_line(stream: &mut UnixStream, until: Instant) -> std::io::Result<Vec<u8>> {
    let mut line = Vec::new();
    let mut piece = vec![0; 64 << 10];
    loop {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(ErrorKind::TimedOut.into());
        }
        stream.set_read_timeout(Some(left))?;
        let length = match stream.read(&mut piece) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(length) => length,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        line.extend_from_slice(&piece[..length]);
        if line.last() == Some(&b'\n') {
            return Ok(line);
        }
        if line.len() > RESPONSE_BYTES_MAX {
            return Err(std::io::Error::other("the answer does not end"));
        }
    }
}

#[cfg(test)]
mod tests;
