//! The request that follows a redirect. Pure.
//!
//! Credentials stay with the origin for which they were given, and a request by TLS never goes on without it.

use super::url::Url;
use crate::wait::http::{Request, Response};

/// Headers that only the first origin gets.
const CREDENTIALS: [&str; 3] = ["authorization", "cookie", "host"];

/// `None` for a response that is no redirect. An error is why it is not followed.
pub(super) fn next(
    request: &Request,
    url: &Url,
    response: &Response,
) -> Result<Option<(Request, Url)>, String> {
    let loses_its_body = match (response.status, request.method.as_str()) {
        (303, "GET" | "HEAD") | (301 | 302 | 307 | 308, _) => {
            matches!(response.status, 301 | 302) && request.method == "POST"
        }
        (303, _) => true,
        _ => return Ok(None),
    };
    let mut headers = response.headers.iter();
    let Some((_, location)) = headers.find(|(name, _)| name == "location") else {
        return Ok(None);
    };
    let Ok(location) = std::str::from_utf8(location) else {
        return Err("the address of a redirect is not UTF-8".to_owned());
    };
    let next = url
        .join(location)
        .map_err(|reason| format!("the address of a redirect {reason}"))?;
    if url.origin.is_tls && !next.origin.is_tls {
        return Err(format!("a redirect leads from https to {}", next.origin));
    }
    let mut request = request.clone();
    if loses_its_body {
        "GET".clone_into(&mut request.method);
        request.body = None;
        request
            .headers
            .retain(|(name, _)| !name.starts_with("content-"));
    }
    if url.origin != next.origin {
        request
            .headers
            .retain(|(name, _)| !CREDENTIALS.contains(&name.as_str()));
        request.certificate = None;
    }
    Ok(Some((request, next)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(method: &str) -> Request {
        let header = |name: &str| (name.to_owned(), b"x".to_vec());
        Request {
            method: method.to_owned(),
            headers: ["authorization", "cookie", "content-type", "x-own"]
                .map(header)
                .to_vec(),
            body: Some(b"body".to_vec()),
            certificate: Some("own".to_owned()),
            ..Request::default()
        }
    }

    fn redirected(method: &str, status: u16, to: &str) -> Result<Option<(Request, Url)>, String> {
        let response = Response {
            status,
            headers: vec![("location".to_owned(), to.as_bytes().to_vec())],
            body: Vec::new(),
        };
        let url = Url::parse("https://a.example/x").unwrap();
        next(&request(method), &url, &response)
    }

    #[track_caller]
    fn names(request: &Request) -> Vec<&str> {
        let headers = request.headers.iter();
        headers.map(|(name, _)| name.as_str()).collect()
    }

    #[test]
    fn the_method_and_the_body_follow_the_status() {
        for (method, status, expected, keeps) in [
            ("POST", 301, "GET", false),
            ("POST", 302, "GET", false),
            ("PUT", 302, "PUT", true),
            ("PUT", 303, "GET", false),
            ("HEAD", 303, "HEAD", true),
            ("POST", 307, "POST", true),
            ("DELETE", 308, "DELETE", true),
        ] {
            let (request, url) = redirected(method, status, "/y").unwrap().unwrap();
            assert_eq!(request.method, expected, "{method} {status}");
            assert_eq!(request.body.is_some(), keeps, "{method} {status}");
            assert_eq!(names(&request).contains(&"content-type"), keeps);
            assert_eq!(url.target, "/y");
        }
    }

    #[test]
    fn credentials_stay_with_their_origin() {
        let (same, _) = redirected("GET", 307, "https://a.example:443/y")
            .unwrap()
            .unwrap();
        assert_eq!(names(&same).len(), 4);
        assert!(same.certificate.is_some());
        for other in [
            "https://b.example/y",
            "https://a.example:8443/y",
            "//b.example",
        ] {
            let (request, _) = redirected("GET", 307, other).unwrap().unwrap();
            assert_eq!(names(&request), ["content-type", "x-own"], "{other}");
            assert!(request.certificate.is_none());
        }
        let error = redirected("GET", 307, "http://a.example/y").unwrap_err();
        assert_eq!(error, "a redirect leads from https to http://a.example");
    }

    #[test]
    fn other_responses_are_no_redirects() {
        assert_eq!(redirected("GET", 200, "/y"), Ok(None));
        assert_eq!(redirected("GET", 304, "/y"), Ok(None));
        assert!(redirected("GET", 302, "file:///etc/passwd").is_err());
    }
}
