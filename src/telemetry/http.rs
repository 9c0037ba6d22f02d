//! The HTTP server of `[http]`: `/metrics`, `/live`, `/ready` and `/status`, read-only.
//!
//! It serves pages and does not depend on their content, which comes from the [`Source`] of its owner. **A peer costs
//! a bounded time and memory**: connections are limited, each has one request, and a deadline covers all of it. **An
//! idle peer costs other peers nothing**: a new connection ends the oldest idle one.

mod accept;
mod patient;

use crate::log::log;
use std::convert::Infallible;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ACCEPT, ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::time::timeout;

use super::connections::{Connections, Seat, lengthen_backlog};
use super::metrics::Format;
use patient::Patient;

const CONNECTIONS_MAX: usize = 64;
/// The limit for a peer to send its request.
const HEADERS: Duration = Duration::from_secs(2);
/// The limit for a peer that reads no byte of its answer.
const IDLE: Duration = Duration::from_secs(2);
const HEADER_BYTES_MAX: usize = 16 << 10;
/// The limit from the connection to the end of the answer.
const CONNECTION: Duration = Duration::from_secs(20);
/// Without file descriptors every accept fails at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

const TEXT: &str = "text/plain; charset=utf-8";
pub(crate) const JSON: &str = "application/json";

/// One of the pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Page {
    Metrics(Format),
    Live,
    Ready,
    Status,
}

/// A page at the present moment. `is_well` selects 200 or 503.
#[derive(Debug)]
pub(crate) struct Content {
    pub(crate) is_well: bool,
    pub(crate) media_type: &'static str,
    pub(crate) text: String,
}

/// Makes pages; it may block for about a second.
pub(crate) type Source = Arc<dyn Fn(Page) -> Content + Send + Sync>;

#[derive(Debug)]
pub(crate) struct Server(TcpListener);

impl Server {
    pub(crate) fn bind(listen: SocketAddr) -> Result<Self> {
        let bound = || -> io::Result<_> {
            let listener = TcpListener::bind(listen)?;
            lengthen_backlog(&listener)?;
            listener.set_nonblocking(true)?;
            Ok(Self(listener))
        };
        bound().with_context(|| format!("http.listen: cannot listen on `{listen}`"))
    }

    /// Answers until it is dropped. Runs on the daemon's runtime; pages are made on threads of their own.
    pub(crate) async fn serve(self, source: Source) -> Result<()> {
        let listener = tokio::net::TcpListener::from_std(self.0).context("http.listen")?;
        // The tests wait for this line: with port 0 only the log has the address.
        log!(info, http, address = %listener.local_addr()?, "http listens");
        let mut connections = Connections::new(CONNECTIONS_MAX);
        loop {
            tokio::select! {
                accepted = listener.accept(), if connections.has_room() => match accepted {
                    Ok((stream, _)) => {
                        let source = source.clone();
                        connections.add(|seat| converse(stream, source, seat)).await;
                    }
                    Err(error) => {
                        log!(warn, http, %error, "http cannot accept a connection");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                },
                () = connections.one_ends() => {}
            }
        }
    }
}

/// One connection, one request: a scrape every few seconds gains nothing from an open connection.
async fn converse(stream: tokio::net::TcpStream, source: Source, seat: Seat) {
    let service = service_fn(|request| {
        let (source, seat) = (source.clone(), seat.clone());
        async move {
            seat.busy();
            let answer = answer(request, source).await;
            seat.idle();
            answer
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADERS)
        .max_buf_size(HEADER_BYTES_MAX)
        .keep_alive(false)
        .serve_connection(TokioIo::new(Patient::new(stream, IDLE)), service);
    // A peer that closed the connection, sent no request or does not read gets no answer.
    let _ = timeout(CONNECTION, connection).await;
}

async fn answer(
    request: Request<Incoming>,
    source: Source,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let accepted = request.headers().get_all(ACCEPT).iter();
    let accepted: Vec<_> = accepted.filter_map(|value| value.to_str().ok()).collect();
    let format = accept::format(&accepted.join(","));
    let page = match find(request.method(), request.uri().path(), format) {
        Ok(page) => page,
        Err(refused) => return Ok(refused.answer()),
    };
    let made = tokio::task::spawn_blocking(move || source(page)).await;
    Ok(match made {
        Ok(content) => {
            let status = if content.is_well {
                StatusCode::OK
            } else {
                StatusCode::SERVICE_UNAVAILABLE
            };
            response(status, content.media_type, content.text)
        }
        Err(_) => refusal(
            StatusCode::INTERNAL_SERVER_ERROR,
            "the page cannot be built",
        ),
    })
}

/// The reason for a missing page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Refused {
    NotFound,
    NotAllowed,
}

fn find(method: &Method, path: &str, format: Format) -> Result<Page, Refused> {
    let page = match path {
        "/metrics" => Page::Metrics(format),
        "/live" => Page::Live,
        "/ready" => Page::Ready,
        "/status" => Page::Status,
        _ => return Err(Refused::NotFound),
    };
    if method == Method::GET || method == Method::HEAD {
        Ok(page)
    } else {
        Err(Refused::NotAllowed)
    }
}

impl Refused {
    fn answer(self) -> Response<Full<Bytes>> {
        match self {
            Self::NotFound => refusal(
                StatusCode::NOT_FOUND,
                "no such page; the pages are /metrics, /live, /ready and /status",
            ),
            Self::NotAllowed => {
                let mut response = refusal(
                    StatusCode::METHOD_NOT_ALLOWED,
                    "this page takes only GET and HEAD",
                );
                let headers = response.headers_mut();
                headers.insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
                response
            }
        }
    }
}

fn refusal(status: StatusCode, sentence: &str) -> Response<Full<Bytes>> {
    response(status, TEXT, format!("{sentence}\n"))
}

fn response(status: StatusCode, media_type: &'static str, text: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

#[cfg(test)]
mod tests;
