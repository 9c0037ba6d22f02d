//! The messages of PostgreSQL's protocol over one stream. The library writes and reads them; this file has the buffers
//! and their bounds.

use std::io;
use std::pin::Pin;
use std::task::{Context, Waker};

use bytes::BytesMut;
use postgres_protocol::message::backend::{Header, Message};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};

/// Bytes of one read.
const CHUNK: usize = 16 << 10;
/// A buffer that a message has made larger is given back.
const KEPT: usize = 64 << 10;
/// The letter of a message, and its length.
const HEAD: usize = 5;
/// What a message may have where there is no other bound: a description of columns, an error.
pub(super) const MESSAGE_MAX: usize = 16 << 20;

/// Why no message comes, or goes.
#[derive(Debug)]
pub(super) enum Broken {
    /// The connection has ended.
    Closed(String),
    TooLarge,
    /// What came is no message.
    Malformed(io::Error),
    /// A message that is not expected here.
    Unexpected(String),
    /// A string of a message has a zero byte, or the message would be longer than 2 GiB. Nothing of it is sent.
    Unwritable(io::Error),
}

impl From<io::Error> for Broken {
    fn from(error: io::Error) -> Self {
        Self::Closed(error.to_string())
    }
}

pub(super) fn unexpected(what: &str, letter: u8) -> Broken {
    Broken::Unexpected(format!("{what}: a message {:?}", char::from(letter)))
}

pub(super) struct Wire<S> {
    stream: S,
    /// What has been read, and is no message yet.
    input: BytesMut,
    /// A message has made that buffer larger.
    is_large: bool,
    /// A part of a message has been sent.
    is_sending: bool,
    /// What is to be sent.
    pub(super) output: Output,
}

#[derive(Debug, Default)]
pub(super) struct Output(BytesMut);

impl<S: AsyncRead + AsyncWrite + Unpin> Wire<S> {
    pub(super) fn new(stream: S) -> Self {
        Self {
            stream,
            input: BytesMut::new(),
            is_large: false,
            is_sending: false,
            output: Output::default(),
        }
    }

    pub(super) async fn send(&mut self) -> Result<(), Broken> {
        self.is_sending = true;
        self.stream.write_all(&self.output.0).await?;
        self.stream.flush().await?;
        self.is_sending = false;
        if self.output.0.capacity() > KEPT {
            self.output = Output::default();
        }
        self.output.0.clear();
        Ok(())
    }

    /// The next message, with its letter. One of more than `most` bytes is refused before it is read.
    pub(super) async fn receive(&mut self, most: usize) -> Result<(u8, Message), Broken> {
        let header = loop {
            self.fill(HEAD).await?;
            if let Some(header) = Header::parse(&self.input).map_err(Broken::Malformed)? {
                break header;
            }
        };
        // With the four bytes of itself, and without the letter.
        let length = header.len() as usize;
        if length - 4 > most {
            return Err(Broken::TooLarge);
        }
        loop {
            self.fill(1 + length).await?;
            // It shares the buffer, so nothing is copied.
            let message = Message::parse(&mut self.input).map_err(Broken::Malformed)?;
            if let Some(message) = message {
                return Ok((header.tag(), message));
            }
        }
    }

    /// Reads until so many bytes are there.
    async fn fill(&mut self, count: usize) -> Result<(), Broken> {
        if self.input.len() >= count {
            return Ok(());
        }
        if self.is_large && count <= KEPT {
            self.input = BytesMut::from(&self.input[..]);
        }
        self.is_large = count > KEPT;
        while self.input.len() < count {
            let missing = count - self.input.len();
            self.input.reserve(missing.max(CHUNK));
            if self.stream.read_buf(&mut self.input).await? == 0 {
                return Err(Broken::Closed("the server has closed it".to_owned()));
            }
        }
        Ok(())
    }

    /// Whether nothing has come since the last message, also no end.
    pub(super) fn is_quiet(&mut self) -> bool {
        let mut byte = [0];
        let mut byte = ReadBuf::new(&mut byte);
        let mut context = Context::from_waker(Waker::noop());
        let read = Pin::new(&mut self.stream).poll_read(&mut context, &mut byte);
        self.input.is_empty() && read.is_pending()
    }

    /// Whether a send was given up: the server waits for the rest of a message.
    pub(super) fn is_sending(&self) -> bool {
        self.is_sending
    }

    pub(super) async fn shut_down(&mut self) {
        // The server ends the connection, too.
        let _ = self.stream.shutdown().await;
    }
}

impl Output {
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Appends a message by a function of the library.
    pub(super) fn push(&mut self, write: impl FnOnce(&mut BytesMut)) {
        write(&mut self.0);
    }

    /// As `push`, by a function that may refuse. Nothing is left to send then: a message may be there in part.
    pub(super) fn try_push(
        &mut self,
        write: impl FnOnce(&mut BytesMut) -> io::Result<()>,
    ) -> Result<(), Broken> {
        write(&mut self.0).map_err(|error| {
            self.0.clear();
            Broken::Unwritable(error)
        })
    }
}

#[cfg(test)]
mod tests {
    use postgres_protocol::message::frontend;

    use super::*;

    fn message(letter: u8, body: &[u8]) -> Vec<u8> {
        let length = (body.len() as u32 + 4).to_be_bytes();
        [&[letter][..], &length, body].concat()
    }

    fn on_a_runtime(work: impl Future<Output = ()>) {
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        runtime.unwrap().block_on(work);
    }

    #[test]
    fn messages_come_in_any_pieces() {
        on_a_runtime(async {
            let (mut server, near) = tokio::io::duplex(3);
            let mut wire = Wire::new(near);
            let large = vec![7; 100_000];
            let sent = [
                message(b'C', b"hello\0"),
                message(b'n', b""),
                message(b'd', &large),
                message(b'n', b""),
            ];
            let sent = sent.concat();
            let (written, ()) = tokio::join!(server.write_all(&sent), async {
                let Ok((b'C', Message::CommandComplete(body))) = wire.receive(10).await else {
                    panic!("no tag");
                };
                assert_eq!(body.tag().unwrap(), "hello");
                assert!(matches!(
                    wire.receive(10).await,
                    Ok((b'n', Message::NoData))
                ));
                let Ok((b'd', Message::CopyData(body))) = wire.receive(100_000).await else {
                    panic!("no data");
                };
                assert_eq!(body.data(), large);
                drop(body);
                assert!(matches!(
                    wire.receive(10).await,
                    Ok((b'n', Message::NoData))
                ));
                assert!(wire.input.capacity() < KEPT);
            });
            written.unwrap();
            assert!(wire.is_quiet());
            drop(server);
            assert!(!wire.is_quiet());
        });
    }

    #[test]
    fn a_message_that_is_too_large_is_refused_by_its_head() {
        on_a_runtime(async {
            for head in [&b"d\0\0\0\x0f"[..], b"d\x7f\xff\xff\xff"] {
                let (mut server, near) = tokio::io::duplex(64);
                let mut wire = Wire::new(near);
                // Its body never comes.
                server.write_all(head).await.unwrap();
                assert!(matches!(wire.receive(10).await, Err(Broken::TooLarge)));
                assert!(wire.input.capacity() <= 2 * CHUNK);
            }
        });
    }

    #[test]
    fn what_is_no_message_is_told() {
        on_a_runtime(async {
            for wrong in [
                message(b'?', b""),
                message(b'C', b"no end"),
                message(b'n', b"more"),
                b"n\0\0\0\x03".to_vec(),
                b"n\xff\xff\xff\xff".to_vec(),
            ] {
                let (mut server, near) = tokio::io::duplex(64);
                let mut wire = Wire::new(near);
                server.write_all(&wrong).await.unwrap();
                assert!(
                    matches!(wire.receive(10).await, Err(Broken::Malformed(_))),
                    "{wrong:?}"
                );
            }
        });
    }

    #[test]
    fn nothing_is_left_of_a_message_that_cannot_be_written() {
        let mut output = Output::default();
        output.push(frontend::sync);
        let written = output.try_push(|buffer| frontend::query("SELECT '\0'", buffer));
        assert!(matches!(written, Err(Broken::Unwritable(_))));
        assert_eq!(output.len(), 0);
    }
}
