//! The packets of MySQL's protocol over one stream: a length of three bytes, a number, and a body. A long body goes in
//! parts.

use std::io;
use std::pin::Pin;
use std::task::{Context, Waker};

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};

/// Bytes of one read.
const CHUNK: usize = 16 << 10;
/// A buffer that a packet has made larger is given back.
const KEPT: usize = 64 << 10;
/// The length of a packet, and its number.
const HEAD: usize = 4;
/// The length of a part that another one follows.
const PART: usize = 0xFF_FFFF;
/// What a packet may have where there is no other bound: an error, a description of a column, a row that only counts.
pub(super) const PACKET_MAX: usize = 16 << 20;

/// Why no packet comes.
#[derive(Debug)]
pub(super) enum Broken {
    /// The connection has ended.
    Closed(String),
    TooLarge,
    /// What came is no packet, or one that is not expected here.
    Unexpected(String),
}

impl From<io::Error> for Broken {
    fn from(error: io::Error) -> Self {
        Self::Closed(error.to_string())
    }
}

pub(super) fn unexpected(what: &str) -> Broken {
    Broken::Unexpected(what.to_owned())
}

pub(super) struct Wire<S> {
    stream: S,
    /// What has been read, and how much of it was given.
    input: Vec<u8>,
    given: usize,
    /// The parts of a packet that has several, until all are there.
    parts: Vec<u8>,
    has_given_parts: bool,
    /// The number of the next packet of this exchange.
    number: u8,
    /// What is to be sent.
    output: Vec<u8>,
    /// A part of a packet has been sent.
    is_sending: bool,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Wire<S> {
    /// `number` is that of the next packet.
    pub(super) fn new(stream: S, number: u8) -> Self {
        Self {
            stream,
            input: Vec::new(),
            given: 0,
            parts: Vec::new(),
            has_given_parts: false,
            number,
            output: Vec::new(),
            is_sending: false,
        }
    }

    /// The stream, and the number of the next packet. **Nothing may have come before its time**: what a stranger has put
    /// in would count as a part of the encrypted stream.
    pub(super) fn into_stream(self) -> Result<(S, u8), Broken> {
        if self.input.len() > self.given {
            return Err(unexpected("bytes before the TLS handshake"));
        }
        Ok((self.stream, self.number))
    }

    /// Writes the first packet of an exchange.
    pub(super) fn command(&mut self, body: &[u8]) {
        self.number = 0;
        self.packet(body);
    }

    /// Writes a further packet of an exchange.
    pub(super) fn packet(&mut self, body: &[u8]) {
        let mut rest = body;
        loop {
            let (part, after) = rest.split_at(rest.len().min(PART));
            let length = (part.len() as u32).to_le_bytes();
            self.output.extend_from_slice(&length[..3]);
            self.output.push(self.number);
            self.number = self.number.wrapping_add(1);
            self.output.extend_from_slice(part);
            rest = after;
            if part.len() < PART {
                return;
            }
        }
    }

    pub(super) async fn send(&mut self) -> Result<(), Broken> {
        self.is_sending = true;
        self.stream.write_all(&self.output).await?;
        self.stream.flush().await?;
        self.is_sending = false;
        self.output.clear();
        self.output.shrink_to(KEPT);
        Ok(())
    }

    /// The next packet, of at most `most` bytes, until the following call. A call that is given up loses nothing.
    pub(super) async fn receive(&mut self, most: usize) -> Result<&[u8], Broken> {
        if std::mem::take(&mut self.has_given_parts) {
            self.parts = Vec::new();
        }
        loop {
            self.fill(HEAD).await?;
            let head = &self.input[self.given..];
            let length = u32::from_le_bytes([head[0], head[1], head[2], 0]) as usize;
            if self.parts.len() + length > most {
                return Err(Broken::TooLarge);
            }
            self.fill(HEAD + length).await?;
            let start = self.given + HEAD;
            self.number = self.input[start - 1].wrapping_add(1);
            self.given = start + length;
            let is_last = length < PART;
            if is_last && self.parts.is_empty() {
                return Ok(&self.input[start..start + length]);
            }
            let part = &self.input[start..start + length];
            self.parts.extend_from_slice(part);
            if is_last {
                self.has_given_parts = true;
                return Ok(&self.parts);
            }
        }
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

    /// Whether nothing has come since the last packet, also no end.
    pub(super) fn is_quiet(&mut self) -> bool {
        let mut byte = [0];
        let mut byte = ReadBuf::new(&mut byte);
        let mut context = Context::from_waker(Waker::noop());
        let read = Pin::new(&mut self.stream).poll_read(&mut context, &mut byte);
        self.input.len() == self.given && read.is_pending()
    }

    /// Whether a send was given up: the server waits for the rest of a packet.
    pub(super) fn is_sending(&self) -> bool {
        self.is_sending
    }

    pub(super) async fn shut_down(&mut self) {
        // The server ends the connection, too.
        let _ = self.stream.shutdown().await;
    }
}

/// Bytes behind their length.
pub(super) fn put_bytes(body: &mut Vec<u8>, bytes: &[u8]) {
    let length = bytes.len() as u64;
    let all = length.to_le_bytes();
    match length {
        0..=0xFA => body.push(all[0]),
        0xFB..=0xFFFF => {
            body.push(0xFC);
            body.extend_from_slice(&all[..2]);
        }
        0x1_0000..=0xFF_FFFF => {
            body.push(0xFD);
            body.extend_from_slice(&all[..3]);
        }
        _ => {
            body.push(0xFE);
            body.extend_from_slice(&all);
        }
    }
    body.extend_from_slice(bytes);
}

/// A string with its end.
pub(super) fn put_string(body: &mut Vec<u8>, bytes: &[u8]) {
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

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.bytes(N)?.try_into().ok()
    }

    pub(super) fn u8(&mut self) -> Option<u8> {
        self.array().map(|[byte]| byte)
    }

    pub(super) fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    /// A number whose first byte tells its width.
    pub(super) fn length(&mut self) -> Option<u64> {
        match self.u8()? {
            small @ 0..=0xFA => Some(u64::from(small)),
            0xFC => self.u16().map(u64::from),
            0xFD => {
                let [a, b, c] = self.array()?;
                Some(u64::from(u32::from_le_bytes([a, b, c, 0])))
            }
            0xFE => self.u64(),
            _ => None,
        }
    }

    /// Bytes behind their length.
    pub(super) fn counted(&mut self) -> Option<&'b [u8]> {
        let length = self.length()?;
        self.bytes(usize::try_from(length).ok()?)
    }

    /// Up to a zero byte.
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
    fn packets_come_in_any_pieces_and_long_ones_in_parts() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        runtime.block_on(async {
            let (near, far) = tokio::io::duplex(1 << 20);
            let (mut sender, mut receiver) = (Wire::new(near, 0), Wire::new(far, 0));
            let long = vec![7; PART];
            sender.command(b"hello");
            sender.packet(b"");
            sender.packet(&long);
            sender.packet(b"end");
            let (sent, ()) = tokio::join!(sender.send(), async {
                assert_eq!(receiver.receive(10).await.unwrap(), b"hello");
                assert_eq!(receiver.receive(10).await.unwrap(), b"");
                assert_eq!(receiver.receive(PART).await.unwrap(), long);
                // The long one had an empty part behind it.
                assert_eq!(receiver.receive(10).await.unwrap(), b"end");
                assert_eq!(receiver.number, 5);
            });
            sent.unwrap();
            assert!(receiver.is_quiet());
            sender.command(&[0; 11]);
            sender.send().await.unwrap();
            assert!(matches!(receiver.receive(10).await, Err(Broken::TooLarge)));
            assert!(receiver.into_stream().is_err());
        });
    }

    #[test]
    fn a_length_comes_back_as_it_was_written() {
        for length in [0, 250, 251, 65_535, 65_536, 0xFF_FFFF, 0x100_0000] {
            let bytes = vec![1; length];
            let mut body = Vec::new();
            put_bytes(&mut body, &bytes);
            let mut parts = Parts(&body);
            assert_eq!(parts.counted(), Some(&bytes[..]));
            assert!(parts.0.is_empty());
        }
        assert_eq!(Parts(&[0xFC, 1]).length(), None);
        assert_eq!(Parts(&[3, 1]).counted(), None);
        assert_eq!(Parts(b"ab").string(), None);
    }
}
