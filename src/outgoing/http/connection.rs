//! A connection for requests, on a stream that is open.

use std::sync::Arc;

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::JoinHandle;

use super::url::Origin;
use crate::outgoing::pool::{self, Reusable};

/// The most bytes of the head of a response.
const HEAD_BYTES_MAX: usize = 128 << 10;
const HEADERS_MAX: usize = 256;

pub(super) type Pool = pool::Pool<Key, Connection>;

/// What an idle connection can serve.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Key {
    pub(super) origin: Origin,
    pub(super) certificate: Option<String>,
}

/// A connection. Its drop closes the socket.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) sender: SendRequest<Full<Bytes>>,
    task: JoinHandle<()>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Reusable for Connection {
    fn is_usable(&mut self) -> bool {
        !self.sender.is_closed()
    }
}

impl Connection {
    pub(super) async fn new<S>(pool: &Arc<Pool>, stream: S) -> hyper::Result<Self>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let open = pool.opened();
        let mut builder = http1::Builder::new();
        builder
            .max_buf_size(HEAD_BYTES_MAX)
            .max_headers(HEADERS_MAX);
        let (sender, driver) = builder.handshake(TokioIo::new(stream)).await?;
        let task = tokio::spawn(async move {
            let _open = open;
            // The request has the error, too.
            let _ = driver.await;
        });
        Ok(Self { sender, task })
    }
}
