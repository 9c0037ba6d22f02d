//! TLS and proxies.

use std::collections::BTreeMap;

use super::web::Identity;
use super::*;
use crate::config::{Certificate, Proxy, Secret};

fn trusting(one: &Identity) -> HttpClient {
    HttpClient {
        ca: Some(Secret(one.cert_pem())),
        ..settings()
    }
}

fn https(web: &Web, host: &str) -> String {
    format!("https://{host}:{}/x", web.address().port())
}

#[test]
fn a_certificate_must_be_trusted_and_name_its_host() {
    let own = Identity::new("server.test");
    let web = Web::start_tls(&own, None);
    let f = Fixture::new(&trusting(&own));
    assert_eq!(f.get(&https(&web, "server.test")).unwrap().body, b"ok");
    assert_eq!(f.get(&https(&web, "server.test")).unwrap().body, b"ok");
    assert_eq!(web.accepted(), 1);
    fails(
        f.get(&https(&web, "other.test")),
        "refused",
        "certificate of the server is not valid",
    );
    fails(
        f.get(&https(&web, "127.0.0.1")),
        "refused",
        "certificate of the server is not valid",
    );
    let system = Fixture::new(&settings());
    fails(
        system.get(&https(&web, "server.test")),
        "refused",
        "self-signed",
    );
    assert_eq!(
        web.seen().len(),
        2,
        "nothing was sent to what is not trusted"
    );
    let by_address = Identity::new("127.0.0.1");
    let web = Web::start_tls(&by_address, None);
    let f = Fixture::new(&trusting(&by_address));
    assert_eq!(f.get(&https(&web, "127.0.0.1")).unwrap().body, b"ok");
}

#[test]
fn a_request_shows_the_client_certificate_that_it_names() {
    let (own, client) = (Identity::new("server.test"), Identity::new("client.test"));
    let web = Web::start_tls(&own, Some(&client));
    let certificate = Certificate {
        cert: Secret(client.cert_pem()),
        key: Secret(client.key_pem_of("open")),
        passphrase: Some(Secret("open".to_owned())),
    };
    let f = Fixture::new(&HttpClient {
        certificates: BTreeMap::from([("own".to_owned(), certificate)]),
        ..trusting(&own)
    });
    let url = https(&web, "server.test");
    assert!(f.get(&url).is_err());
    let mut with = request("GET", &url);
    with.certificate = Some("own".to_owned());
    assert_eq!(f.send(with.clone()).unwrap().body, b"ok");
    // The connection belongs to the certificate.
    assert!(f.get(&url).is_err());
    with.certificate = Some("owm".to_owned());
    let fault = f.http.request(with).err().unwrap();
    assert!(
        fault.message.contains("did you mean `own`?"),
        "{}",
        fault.message
    );
}

#[test]
fn a_proxy_carries_plain_requests_and_tunnels() {
    let own = Identity::new("server.test");
    let (proxy, plain, tls) = (Web::start(), Web::start(), Web::start_tls(&own, None));
    let f = Fixture::new(&HttpClient {
        proxy: Some(Proxy {
            host: "proxy.test".to_owned(),
            port: proxy.address().port(),
            credentials: Some(Secret("anna:secret".to_owned())),
        }),
        no_proxy: allow(&["direct.test"]),
        ..trusting(&own)
    });
    assert!(!format!("{:?}", f.http).contains("secret"));
    assert_eq!(f.get("http://far.test/x").unwrap().body, b"ok");
    let seen = &proxy.seen()[0];
    assert_eq!(seen.path, "http://far.test/x");
    assert_eq!(
        seen.header("proxy-authorization"),
        Some("Basic YW5uYTpzZWNyZXQ=")
    );
    assert_eq!(seen.header("host"), Some("far.test"));
    assert_eq!(f.get(&https(&tls, "server.test")).unwrap().body, b"ok");
    let seen = &proxy.seen()[1];
    assert_eq!(seen.method, "CONNECT");
    assert_eq!(
        seen.header("proxy-authorization"),
        Some("Basic YW5uYTpzZWNyZXQ=")
    );
    assert!(tls.seen()[0].header("proxy-authorization").is_none());
    let direct = format!("http://direct.test:{}/x", plain.address().port());
    assert_eq!(f.get(&direct).unwrap().body, b"ok");
    assert_eq!((plain.seen().len(), proxy.seen().len()), (1, 2));
}
