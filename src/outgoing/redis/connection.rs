//! One connection to one server: commands out, as many replies in.
//!
//! **It is put back only behind its last reply.** Whoever gives an exchange up drops the connection with it.

use std::io;
use std::pin::Pin;
use std::task::{Context, Waker};

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _, ReadBuf};

use super::reply::{Bad, Parser, Reply};
use crate::config::Address;
use crate::outgoing::pool::{self, Open, Reusable};
use crate::outgoing::sockets::stream::Stream;
use crate::wait::Fault;

pub(super) type Pool = pool::Pool<Address, Connection>;

/// Bytes of one read.
const CHUNK: usize = 16 << 10;
/// A buffer that a reply has made larger is given back.
const BUFFER_KEPT: usize = 64 << 10;

pub(super) struct Connection {
    stream: Stream,
    /// What has been read and is no reply yet; empty between two exchanges.
    buffer: Vec<u8>,
    _open: Open,
}

/// Why an exchange has no replies.
#[derive(Debug)]
pub(super) enum Broken {
    /// The connection has ended.
    Closed(String),
    /// What came is no reply, or too large.
    Reply(Bad),
}

impl From<io::Error> for Broken {
    fn from(error: io::Error) -> Self {
        Self::Closed(error.to_string())
    }
}

impl Broken {
    pub(super) fn fault(self, most: usize) -> Fault {
        match self {
            Self::Closed(reason) => {
                let message = format!("the connection ended before the reply: {reason}");
                Fault::new("closed", message)
            }
            Self::Reply(Bad::TooLarge) => {
                let message = format!("the reply is larger than the {most} bytes of `maxReply`");
                Fault::new("tooLarge", message)
            }
            Self::Reply(Bad::Malformed(reason)) => Fault::new(
                "invalid",
                format!("the server does not speak RESP: {reason}"),
            ),
        }
    }
}

impl Connection {
    pub(super) fn new(stream: Stream, open: Open) -> Self {
        Self {
            stream,
            buffer: Vec::new(),
            _open: open,
        }
    }

    /// Sends these bytes, which are `count` commands, and reads their replies. `left` is what the call may still read.
    pub(super) async fn exchange(
        &mut self,
        bytes: &[u8],
        count: usize,
        left: &mut usize,
    ) -> Result<Vec<Reply>, Broken> {
        let (mut reading, mut writing) = tokio::io::split(&mut self.stream);
        let write = async {
            writing.write_all(bytes).await?;
            writing.flush().await?;
            Ok::<_, Broken>(())
        };
        // At once: a server may stop reading while nobody reads its replies.
        let read = read(&mut reading, &mut self.buffer, count, left);
        let ((), replies) = tokio::try_join!(write, read)?;
        if self.buffer.capacity() > BUFFER_KEPT {
            self.buffer.shrink_to(BUFFER_KEPT);
        }
        Ok(replies)
    }
}

async fn read(
    stream: &mut (impl AsyncRead + Unpin),
    buffer: &mut Vec<u8>,
    count: usize,
    left: &mut usize,
) -> Result<Vec<Reply>, Broken> {
    let mut parser = Parser::new(*left);
    let mut replies = Vec::with_capacity(count.min(1_024));
    let mut used = 0;
    while replies.len() < count {
        let (length, reply) = parser.feed(&buffer[used..]).map_err(Broken::Reply)?;
        used += length;
        if let Some(reply) = reply {
            replies.push(reply);
            continue;
        }
        buffer.drain(..used);
        used = 0;
        buffer.reserve(CHUNK);
        if stream.read_buf(buffer).await? == 0 {
            return Err(Broken::Closed("the server has closed it".to_owned()));
        }
    }
    buffer.drain(..used);
    *left = parser.left();
    Ok(replies)
}

impl Reusable for Connection {
    fn is_usable(&mut self) -> bool {
        let mut byte = [0];
        let mut byte = ReadBuf::new(&mut byte);
        let mut context = Context::from_waker(Waker::noop());
        let read = Pin::new(&mut self.stream).poll_read(&mut context, &mut byte);
        // What comes without a question, also the end of the stream, makes it useless.
        self.buffer.is_empty() && read.is_pending()
    }
}
