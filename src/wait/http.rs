//! The HTTP request of a handler, and its response. Knows neither Lua nor sockets.
//!
//! The API of handlers makes a [`Request`], and an [`Http`] that it was given carries it out.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use super::Fault;

/// What one call requests.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Request {
    /// The name of the function, for errors.
    pub(crate) function: &'static str,
    pub(crate) method: String,
    pub(crate) url: String,
    /// The names are in lower case.
    pub(crate) headers: Vec<(String, Vec<u8>)>,
    pub(crate) body: Option<Vec<u8>>,
    /// `None`: that of the configuration, like the others below.
    pub(crate) timeout: Option<Duration>,
    /// The most redirects that are followed.
    pub(crate) redirects: Option<u32>,
    pub(crate) max_body: Option<usize>,
    /// The name of a client certificate.
    pub(crate) certificate: Option<String>,
}

impl Request {
    pub(crate) fn header(&self, name: &str) -> Option<&[u8]> {
        let mut headers = self.headers.iter();
        let found = headers.find(|(known, _)| known == name);
        found.map(|(_, value)| &**value)
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Response {
    pub(crate) status: u16,
    /// In the order of the response; the names are in lower case.
    pub(crate) headers: Vec<(String, Vec<u8>)>,
    pub(crate) body: Vec<u8>,
}

/// Ends with the response, or with the reason for none. **A drop closes the connection**, half used or not.
pub(crate) type Requesting = Pin<Box<dyn Future<Output = Result<Response, Fault>> + Send>>;

/// A request that has been checked and not begun.
pub(crate) struct Prepared {
    /// For the status: `GET api.example.com`.
    pub(crate) about: String,
    pub(crate) requesting: Requesting,
}

/// The HTTP client of one configuration.
pub(crate) trait Http: fmt::Debug + Send + Sync {
    /// Checks the request, and starts nothing: the answer does, on the runtime of the outside.
    fn request(&self, request: Request) -> Result<Prepared, Fault>;
}
