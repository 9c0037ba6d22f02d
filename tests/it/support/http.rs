//! What the HTTP server of a daemon says, read by a client and a parser of our own.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use super::daemon::Daemon;

/// Long enough for a daemon whose threads are given a second each to answer.
const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) struct Answer {
    pub(crate) code: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

/// The address that the log tells.
pub(crate) fn address(daemon: &mut Daemon) -> String {
    let line = daemon.wait_line("http listens", |line| line.is("http listens"));
    line.field("address")
}

pub(crate) fn get(address: &str, path: &str) -> Answer {
    let mut stream = TcpStream::connect(address).expect("the server listens");
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nhost: {address}\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("a whole answer");
    let (head, body) = text.split_once("\r\n\r\n").expect("a head");
    Answer {
        code: head.split(' ').nth(1).unwrap().parse().unwrap(),
        head: head.to_owned(),
        body: body.to_owned(),
    }
}

/// The samples of one scrape, by name and labels.
#[derive(Debug)]
pub(crate) struct Samples(BTreeMap<(String, BTreeMap<String, String>), f64>);

pub(crate) fn scrape(address: &str) -> Samples {
    let answer = get(address, "/metrics");
    assert_eq!(answer.code, 200);
    assert!(
        answer
            .head
            .contains("content-type: application/openmetrics-text; version=1.0.0"),
        "{}",
        answer.head
    );
    Samples::parse(&answer.body)
}

impl Samples {
    /// Refuses whatever Prometheus would: a sample of an undeclared family, a sample twice, a page without an end.
    pub(crate) fn parse(page: &str) -> Self {
        let body = page.strip_suffix("# EOF\n").expect("the page has its end");
        let mut types: BTreeMap<&str, &str> = BTreeMap::new();
        let mut samples = BTreeMap::new();
        for line in body.lines() {
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').unwrap();
                assert!(types.insert(name, kind).is_none(), "declared twice: {name}");
                continue;
            }
            if line.starts_with("# ") {
                continue;
            }
            let (name, labels, value) = sample(line);
            let declared = types.iter().any(|(family, kind)| {
                name.strip_prefix(family)
                    .is_some_and(|end| suffixes(kind).contains(&end))
            });
            assert!(declared, "not declared: {line}");
            let twice = samples.insert((name.to_owned(), labels), value).is_some();
            assert!(!twice, "twice: {line}");
        }
        Self(samples)
    }

    /// The one sample of this name with these labels, among others.
    pub(crate) fn get(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let mut found = self.all(name, labels);
        let value = found.next();
        assert!(
            found.next().is_none(),
            "several samples of {name} {labels:?}"
        );
        value
    }

    pub(crate) fn all<'a>(
        &'a self,
        name: &'a str,
        labels: &'a [(&'a str, &'a str)],
    ) -> impl Iterator<Item = f64> + 'a {
        self.0.iter().filter_map(move |((one, own), value)| {
            let has =
                |(label, value): &(&str, &str)| own.get(*label).is_some_and(|own| own == value);
            (one == name && labels.iter().all(has)).then_some(*value)
        })
    }
}

fn suffixes(kind: &str) -> &'static [&'static str] {
    match kind {
        "counter" => &["_total"],
        "gauge" => &[""],
        "histogram" => &["_bucket", "_count", "_sum"],
        "info" => &["_info"],
        _ => panic!("no such type: {kind}"),
    }
}

/// `name{label="value",…} 1.5`
fn sample(line: &str) -> (&str, BTreeMap<String, String>, f64) {
    let (series, value) = line.rsplit_once(' ').expect("a value");
    let value = value.parse().expect("a number");
    let Some((name, rest)) = series.split_once('{') else {
        return (series, BTreeMap::new(), value);
    };
    let mut labels = BTreeMap::new();
    let mut rest = rest.strip_suffix('}').expect("a closing brace");
    while !rest.is_empty() {
        let (label, quoted) = rest.split_once("=\"").expect("a quoted value");
        let mut text = String::new();
        let mut chars = quoted.char_indices();
        let end = loop {
            match chars.next().expect("a closing quote") {
                (index, '"') => break index,
                (_, '\\') => text.push(match chars.next().expect("an escaped character").1 {
                    'n' => '\n',
                    other => other,
                }),
                (_, other) => text.push(other),
            }
        };
        labels.insert(label.to_owned(), text);
        rest = quoted[end + 1..].trim_start_matches(',');
    }
    (name, labels, value)
}
