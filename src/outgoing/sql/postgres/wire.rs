//! The messages of PostgreSQL's protocol, version 3, over one stream: a letter, a length and a body.

use std::io;
use std::pin::Pin;
use std::task::{Context, Waker};

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};

/// Bytes of one read.
const CHUNK: usize = 16 << 10;
/// A buffer that a message has made larger is given back.
const KEPT: usize = 64 << 10;
/// What a message may have where there is no other bound: a description of columns, an error.
pub(super) const MESSAGE_MAX: usize = 16 << 20;

/// Why no message comes.
#[derive(Debug)]
pub(super) enum Broken {
    /// The connection has ended.
    Closed(String),
    TooLarge,
    /// What came is no message, or one that is not expected here.
    Unexpected(String),
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
    /// What has been read, and how much of it was given.
    input: Vec<u8>,
    given: usize,
    /// A part of a message has been sent.
    is_sending: bool,
    /// What is to be sent.
    pub(super) output: Output,
}

#[derive(Debug, Default)]
pub(super) struct Output(Vec<u8>);

impl<S: AsyncRead + AsyncWrite + Unpin> Wire<S> {
    pub(super) fn new(stream: S) -> Self {
        Self {
            stream,
            input: Vec::new(),
            given: 0,
            is_sending: false,
            output: Output::default(),
        }
    }

    pub(super) async fn send(&mut self) -> Result<(), Broken> {
        self.is_sending = true;
        self.stream.write_all(&self.output.0).await?;
        self.stream.flush().await?;
        self.is_sending = false;
        self.output.0.clear();
        self.output.0.shrink_to(KEPT);
        Ok(())
    }

    /// The next message, of at most `most` bytes, until the following call.
    pub(super) async fn receive(&mut self, most: usize) -> Result<(u8, &[u8]), Broken> {
        self.fill(5).await?;
        let head = &self.input[self.given..];
        let letter = head[0];
        let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
        let Some(length) = length.checked_sub(4) else {
            return Err(Broken::Unexpected("a message without a length".to_owned()));
        };
        if length > most {
            return Err(Broken::TooLarge);
        }
        self.fill(5 + length).await?;
        let start = self.given + 5;
        self.given = start + length;
        Ok((letter, &self.input[start..start + length]))
    }

    /// Reads until so many bytes are there.
    async fn fill(&mut self, count: usize) -> Result<(), Broken> {
        if self.input.len() - self.given >= count {
            return Ok(());
        }
        self.input.drain(..self.given);
        self.given = 0;
        if count < KEPT {
            self.input.shrink_to(KEPT);
        }
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
        self.input.len() == self.given && read.is_pending()
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

    /// The first message of a connection has no letter.
    pub(super) fn start_up(&mut self, parameters: &[(&str, &str)]) {
        self.framed(|body| {
            body.extend_from_slice(&0x0003_0000u32.to_be_bytes());
            for (name, value) in parameters {
                string(body, name.as_bytes());
                string(body, value.as_bytes());
            }
            body.push(0);
        });
    }

    /// Asks for TLS, before anything else.
    pub(super) fn ssl_request() -> [u8; 8] {
        [0, 0, 0, 8, 4, 210, 22, 47]
    }

    pub(super) fn cancel_request(process: u32, secret: u32) -> Vec<u8> {
        let mut bytes = vec![0, 0, 0, 16, 4, 210, 22, 46];
        bytes.extend_from_slice(&process.to_be_bytes());
        bytes.extend_from_slice(&secret.to_be_bytes());
        bytes
    }

    pub(super) fn message(&mut self, letter: u8, write: impl FnOnce(&mut Vec<u8>)) {
        self.0.push(letter);
        self.framed(write);
    }

    fn framed(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        let start = self.0.len();
        self.0.extend_from_slice(&[0; 4]);
        write(&mut self.0);
        let length = (self.0.len() - start) as u32;
        self.0[start..start + 4].copy_from_slice(&length.to_be_bytes());
    }
}

/// A string with its end.
pub(super) fn string(body: &mut Vec<u8>, bytes: &[u8]) {
    body.extend_from_slice(bytes);
    body.push(0);
}

/// Reads the parts of a body. Each is `None` where the body is too short.
pub(super) struct Parts<'b>(pub(super) &'b [u8]);

impl<'b> Parts<'b> {
    pub(super) fn bytes(&mut self, count: usize) -> Option<&'b [u8]> {
        let (bytes, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(bytes)
    }

    pub(super) fn u16(&mut self) -> Option<u16> {
        Some(u16::from_be_bytes(self.bytes(2)?.try_into().ok()?))
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        Some(u32::from_be_bytes(self.bytes(4)?.try_into().ok()?))
    }

    pub(super) fn string(&mut self) -> Option<&'b [u8]> {
        let end = self.0.iter().position(|byte| *byte == 0)?;
        let string = self.bytes(end)?;
        self.bytes(1)?;
        Some(string)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_come_in_any_pieces() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        runtime.block_on(async {
            let (near, far) = tokio::io::duplex(3);
            let (mut sender, mut receiver) = (Wire::new(near), Wire::new(far));
            sender.output.message(b'A', |body| string(body, b"hello"));
            sender.output.message(b'B', |_| {});
            sender
                .output
                .message(b'C', |body| body.resize(body.len() + 100_000, 7));
            let (sent, ()) = tokio::join!(sender.send(), async {
                let (letter, body) = receiver.receive(10).await.unwrap();
                assert_eq!((letter, Parts(body).string()), (b'A', Some(&b"hello"[..])));
                assert_eq!(receiver.receive(10).await.unwrap(), (b'B', &[][..]));
                let (letter, body) = receiver.receive(100_000).await.unwrap();
                assert_eq!((letter, body.len()), (b'C', 100_000));
            });
            sent.unwrap();
            assert!(receiver.is_quiet());
            sender
                .output
                .message(b'D', |body| body.extend_from_slice(&[7; 11]));
            tokio::select! {
                // The pipe is too small for a message that nobody reads.
                sent = sender.send() => panic!("{sent:?}"),
                next = receiver.receive(10) => assert!(matches!(next, Err(Broken::TooLarge))),
            }
            drop(sender);
            assert!(!receiver.is_quiet());
        });
    }

    #[test]
    fn a_short_body_has_no_parts() {
        let mut parts = Parts(&[0, 1, b'a', 0, b'b']);
        assert_eq!(parts.u16(), Some(1));
        assert_eq!(parts.string(), Some(&b"a"[..]));
        assert_eq!(
            (parts.u16(), parts.string(), parts.u32()),
            (None, None, None)
        );
    }
}
