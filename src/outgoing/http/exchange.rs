//! One request on one connection, and its whole response.

use std::error::Error;
use std::io::{self, Write};
use std::sync::atomic::{AtomicUsize, Ordering};

use flate2::write::MultiGzDecoder;
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Body as _, Bytes, Incoming};
use hyper::header::{self, HeaderName, HeaderValue};
use hyper::{HeaderMap, Method};
use tokio::time::{Instant, timeout_at};

use super::Client;
use super::connecting::proxy_authorization;
use super::connection::{Connection, Key};
use super::url::Url;
use crate::duration::short;
use crate::wait::Fault;
use crate::wait::http::{Request, Response};

/// The most bytes of all responses that are being read.
const BUFFERED_MAX: usize = 1 << 30;
const USER_AGENT: &str = concat!("moontide/", env!("CARGO_PKG_VERSION"));
/// Methods that may be repeated although the server may have acted.
const IDEMPOTENT: [&str; 5] = ["GET", "HEAD", "PUT", "DELETE", "OPTIONS"];
/// Headers that belong to the connection.
const OWN: [&str; 9] = [
    "connection",
    "content-length",
    "expect",
    "keep-alive",
    "proxy-authorization",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// Why no response has begun.
struct Broken {
    /// Nothing of the request was written.
    is_unsent: bool,
    error: hyper::Error,
}

/// An error is the part of a sentence behind the name of the function.
pub(super) fn check(request: &Request, url: &Url) -> Result<(), String> {
    let is_usual = |byte: u8| byte.is_ascii_uppercase() || byte == b'-';
    let method = &request.method;
    if method.is_empty() || method.len() > 32 || !method.bytes().all(is_usual) {
        return Err("`method` is not a method such as \"GET\"".to_owned());
    }
    if matches!(method.as_str(), "CONNECT" | "TRACE") {
        return Err(format!(
            "`method` is \"{method}\", which is not possible here"
        ));
    }
    for (name, value) in &request.headers {
        if OWN.contains(&name.as_str()) {
            return Err(format!("the header `{name}` is set by Moontide; remove it"));
        }
        if HeaderName::from_bytes(name.as_bytes()).is_err() {
            return Err(format!(
                "`{}` is no name of a header",
                name.escape_default()
            ));
        }
        if HeaderValue::from_bytes(value).is_err() {
            return Err(format!(
                "the header `{name}` has a line break or another control character in its value"
            ));
        }
    }
    if url.target.parse::<hyper::Uri>().is_err() {
        return Err("the URL has a path that is not valid".to_owned());
    }
    Ok(())
}

impl Client {
    /// The response to one request, without a look at redirects.
    pub(super) async fn exchange(
        &self,
        request: &Request,
        url: &Url,
        deadline: Instant,
    ) -> Result<Response, Fault> {
        let acquire = self.settings.acquire_timeout;
        let acquire_until = deadline.min(Instant::now() + acquire);
        let Some(_permit) = self.pool.acquire(acquire_until).await else {
            let (size, acquire) = (self.settings.size, short(acquire));
            let message = format!(
                "all {size} connections are in use, and none became free within {acquire}; `size` and `acquireTimeout` \
                 of `[http.client]` are the limits"
            );
            return Err(Fault::new("busy", message));
        };
        let key = Key {
            origin: url.origin.clone(),
            certificate: request.certificate.clone(),
        };
        let mut idle = self.pool.take(&key);
        loop {
            let is_reused = idle.is_some();
            let mut connection = match idle.take() {
                Some(connection) => connection,
                // In a box: most requests need none, and each has room for what it may do.
                None => Box::pin(self.connect(&key, deadline)).await?,
            };
            let sending = send(&mut connection, self.written(request, url)?);
            let begun = match timeout_at(deadline, sending).await {
                Ok(Ok(begun)) => begun,
                Ok(Err(broken)) => {
                    let may_repeat =
                        broken.is_unsent || IDEMPOTENT.contains(&request.method.as_str());
                    if is_reused && may_repeat {
                        // The server has closed the idle connection: the one repeat has a new one.
                        continue;
                    }
                    return Err(fault_of(&broken.error));
                }
                Err(_) => return Err(late()),
            };
            let reading = self.read(request, begun);
            let Ok(response) = timeout_at(deadline, reading).await else {
                return Err(late());
            };
            let response = response?;
            self.pool.put_back(key, connection);
            return Ok(response);
        }
    }

    /// The request as it is written to the connection.
    fn written(&self, request: &Request, url: &Url) -> Result<hyper::Request<Full<Bytes>>, Fault> {
        let invalid = |error: &dyn Error| Fault::new("invalid", error.to_string());
        let proxy = self.proxy(&url.origin).filter(|_| !url.origin.is_tls);
        let uri = if proxy.is_some() {
            format!("{}{}", url.origin, url.target)
        } else {
            url.target.clone()
        };
        let body = request.body.clone().unwrap_or_default();
        let mut written = hyper::Request::new(Full::new(Bytes::from(body)));
        *written.method_mut() =
            Method::from_bytes(request.method.as_bytes()).map_err(|error| invalid(&error))?;
        *written.uri_mut() = uri
            .parse()
            .map_err(|error: hyper::http::uri::InvalidUri| invalid(&error))?;
        let headers = written.headers_mut();
        for (name, value) in &request.headers {
            let name = HeaderName::from_bytes(name.as_bytes()).map_err(|error| invalid(&error))?;
            let value = HeaderValue::from_bytes(value).map_err(|error| invalid(&error))?;
            headers.append(name, value);
        }
        let mut default = |name: HeaderName, text: &str| -> Result<(), Fault> {
            if !headers.contains_key(&name) {
                let value = HeaderValue::from_str(text).map_err(|error| invalid(&error))?;
                headers.insert(name, value);
            }
            Ok(())
        };
        default(header::HOST, &url.origin.authority())?;
        default(header::USER_AGENT, USER_AGENT)?;
        default(header::ACCEPT, "*/*")?;
        default(header::ACCEPT_ENCODING, "gzip")?;
        if let Some(credentials) = proxy.and_then(|proxy| proxy.credentials.as_ref()) {
            default(
                header::PROXY_AUTHORIZATION,
                &proxy_authorization(credentials),
            )?;
        }
        Ok(written)
    }

    /// The whole response, within its limits.
    async fn read(
        &self,
        request: &Request,
        begun: hyper::Response<Incoming>,
    ) -> Result<Response, Fault> {
        let (head, mut body) = begun.into_parts();
        let most = request.max_body.unwrap_or(self.settings.max_body);
        // A handler that asks for an encoding itself decodes it, too.
        let is_gzip = request.header("accept-encoding").is_none() && is_gzip(&head.headers);
        let length = body.size_hint().exact();
        if !is_gzip && length.is_some_and(|length| length > most as u64) {
            return Err(too_large(most));
        }
        let mut buffered = Held {
            total: &self.shared.buffered,
            own: 0,
        };
        let mut sink = Sink::new(most, is_gzip);
        let mut has_body = false;
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| fault_of(&error))?;
            if let Ok(bytes) = frame.into_data() {
                has_body |= !bytes.is_empty();
                let before = sink.len();
                sink.take(&bytes)?;
                buffered.add(sink.len() - before)?;
            }
        }
        let mut headers = head.headers;
        if is_gzip {
            headers.remove(header::CONTENT_ENCODING);
            headers.remove(header::CONTENT_LENGTH);
        }
        let pairs = headers
            .iter()
            .map(|(name, value)| (name.as_str().to_owned(), value.as_bytes().to_vec()));
        Ok(Response {
            status: head.status.as_u16(),
            headers: pairs.collect(),
            // A response to HEAD has the encoding of a body, and none.
            body: if has_body { sink.finish()? } else { Vec::new() },
        })
    }
}

async fn send(
    connection: &mut Connection,
    request: hyper::Request<Full<Bytes>>,
) -> Result<hyper::Response<Incoming>, Broken> {
    if let Err(error) = connection.sender.ready().await {
        let is_unsent = true;
        return Err(Broken { is_unsent, error });
    }
    let sent = connection.sender.try_send_request(request).await;
    sent.map_err(|mut error| Broken {
        is_unsent: error.take_message().is_some(),
        error: error.into_error(),
    })
}

fn is_gzip(headers: &HeaderMap) -> bool {
    let encoding = headers.get(header::CONTENT_ENCODING);
    encoding.is_some_and(|encoding| {
        let encoding = encoding.as_bytes();
        encoding.eq_ignore_ascii_case(b"gzip") || encoding.eq_ignore_ascii_case(b"x-gzip")
    })
}

fn late() -> Fault {
    Fault::new("timeout", "no whole response")
}

fn too_large(most: usize) -> Fault {
    Fault::new(
        "tooLarge",
        format!("the body of the response has more than {most} bytes (`maxBody`)"),
    )
}

/// What ends a connection before its response is whole.
fn fault_of(error: &hyper::Error) -> Fault {
    if error.is_parse_too_large() {
        return Fault::new("tooLarge", "the head of the response is too large");
    }
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    if error.is_parse() {
        return Fault::new("invalid", format!("the response is no HTTP: {text}"));
    }
    Fault::new(
        "closed",
        format!("the connection ended before a whole response: {text}"),
    )
}

/// Bytes that count in the sum of all responses, until its drop.
struct Held<'t> {
    total: &'t AtomicUsize,
    own: usize,
}

impl Held<'_> {
    fn add(&mut self, bytes: usize) -> Result<(), Fault> {
        self.own += bytes;
        let before = self.total.fetch_add(bytes, Ordering::Relaxed);
        if before + bytes > BUFFERED_MAX {
            let message = "the responses that are being read have more than 1 GiB together; `maxBody` and `size` of \
                           `[http.client]` are lower limits";
            return Err(Fault::new("busy", message));
        }
        Ok(())
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.total.fetch_sub(self.own, Ordering::Relaxed);
    }
}

/// The body so far, decompressed.
enum Sink {
    Plain(Limited),
    Gzip(Box<MultiGzDecoder<Limited>>),
}

/// Takes a limited number of bytes.
struct Limited {
    bytes: Vec<u8>,
    most: usize,
}

impl Write for Limited {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.len() > self.most - self.bytes.len() {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Sink {
    fn new(most: usize, is_gzip: bool) -> Self {
        let limited = Limited {
            bytes: Vec::new(),
            most,
        };
        if is_gzip {
            Self::Gzip(Box::new(MultiGzDecoder::new(limited)))
        } else {
            Self::Plain(limited)
        }
    }

    fn limited(&self) -> &Limited {
        match self {
            Self::Plain(limited) => limited,
            Self::Gzip(decoder) => decoder.get_ref(),
        }
    }

    fn len(&self) -> usize {
        self.limited().bytes.len()
    }

    fn take(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        let written = match self {
            Self::Plain(limited) => limited.write_all(bytes),
            Self::Gzip(decoder) => decoder.write_all(bytes),
        };
        written.map_err(|error| self.fault(&error))
    }

    fn finish(self) -> Result<Vec<u8>, Fault> {
        match self {
            Self::Plain(limited) => Ok(limited.bytes),
            Self::Gzip(mut decoder) => match decoder.try_finish() {
                Err(error) => Err(Self::Gzip(decoder).fault(&error)),
                Ok(()) => Ok(std::mem::take(&mut decoder.get_mut().bytes)),
            },
        }
    }

    fn fault(&self, error: &io::Error) -> Fault {
        if error.kind() == io::ErrorKind::FileTooLarge {
            return too_large(self.limited().most);
        }
        Fault::new(
            "invalid",
            format!("the response is not the gzip that it calls itself: {error}"),
        )
    }
}
