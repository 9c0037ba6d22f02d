//! The page as text, in the `OpenMetrics` format that Prometheus requests first.
//!
//! It handles families and samples, and does not depend on their meaning.

use std::fmt::{self, Write as _};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Registry, Unit};

use super::Histogram;
use super::families::{Family, Kind};

/// A format of the page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    OpenMetrics,
    /// The text format of Prometheus, the older of the two.
    Text,
}

impl Format {
    pub(crate) fn media_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
        }
    }

    /// The page in this format, made from the one in `OpenMetrics`.
    pub(crate) fn of(self, page: String) -> String {
        match self {
            Self::OpenMetrics => page,
            Self::Text => as_text(&page),
        }
    }
}

/// In the text format a family has the name of its samples, `_total` and `_info` included. An info has no type; the
/// format has no unit and no end.
fn as_text(page: &str) -> String {
    let mut text = String::with_capacity(page.len());
    let mut help = None;
    for line in page.lines() {
        let mut words = line.splitn(4, ' ');
        match (words.next(), words.next(), words.next(), words.next()) {
            (Some("#"), Some("HELP"), Some(_), rest) => help = Some(rest.unwrap_or_default()),
            (Some("#"), Some("TYPE"), Some(name), Some(kind)) => {
                let (end, kind) = match kind {
                    "counter" => ("_total", "counter"),
                    "info" => ("_info", "gauge"),
                    kind => ("", kind),
                };
                // Writing to a string cannot fail.
                if let Some(help) = help.take() {
                    let _ = writeln!(text, "# HELP {name}{end} {help}");
                }
                let _ = writeln!(text, "# TYPE {name}{end} {kind}");
            }
            (Some("#"), ..) => {}
            _ => {
                text.push_str(line);
                text.push('\n');
            }
        }
    }
    text
}

/// The samples of every family, in the order of the page.
#[derive(Debug, Default)]
pub(super) struct Samples(Vec<(&'static Family, Vec<Sample>)>);

#[derive(Debug)]
struct Sample {
    labels: Vec<(&'static str, String)>,
    value: Value,
}

#[derive(Debug)]
pub(super) enum Value {
    Whole(i64),
    Real(f64),
    Times(Box<Histogram>),
}

impl Samples {
    /// `labels` are the values of the family's labels, in their order.
    pub(super) fn add(&mut self, family: &'static Family, labels: &[&str], value: Value) {
        debug_assert_eq!(labels.len(), family.labels.len(), "{}", family.name);
        let values = labels.iter().map(ToString::to_string);
        let sample = Sample {
            labels: family.labels.iter().copied().zip(values).collect(),
            value,
        };
        match self.0.iter_mut().find(|(one, _)| one.name == family.name) {
            Some((_, samples)) => samples.push(sample),
            None => self.0.push((family, vec![sample])),
        }
    }

    /// The whole page. Families without a sample are left out.
    pub(super) fn text(self) -> Result<String, fmt::Error> {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(self));
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry)?;
        Ok(text)
    }
}

impl Collector for Samples {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        for (family, samples) in &self.0 {
            let (name, unit) = family.unit();
            let mut encoder =
                encoder.encode_descriptor(name, family.help, unit.as_ref(), family.kind.into())?;
            for sample in samples {
                sample.encode(family.kind, &mut encoder)?;
            }
        }
        Ok(())
    }
}

impl Sample {
    fn encode(&self, kind: Kind, encoder: &mut MetricEncoder<'_>) -> fmt::Result {
        if kind == Kind::Info {
            return encoder.encode_info(&self.labels);
        }
        if self.labels.is_empty() {
            // A family without labels would still get braces.
            return self.value.encode(kind, encoder);
        }
        self.value
            .encode(kind, &mut encoder.encode_family(&self.labels)?)
    }
}

impl Value {
    fn encode(&self, kind: Kind, encoder: &mut MetricEncoder<'_>) -> fmt::Result {
        match (kind, self) {
            (Kind::Counter, Self::Whole(value)) => {
                encoder.encode_counter::<NoLabelSet, _, u64>(&value.unsigned_abs(), None)
            }
            (Kind::Counter, Self::Real(value)) => {
                encoder.encode_counter::<NoLabelSet, _, u64>(value, None)
            }
            (_, Self::Whole(value)) => encoder.encode_gauge(value),
            (_, Self::Real(value)) => encoder.encode_gauge(value),
            (_, Self::Times(times)) => {
                let buckets: Vec<_> = times.buckets().collect();
                encoder.encode_histogram::<NoLabelSet>(
                    times.sum_seconds(),
                    times.count(),
                    &buckets,
                    None,
                )
            }
        }
    }
}

impl Family {
    /// The name without its unit, and the unit.
    fn unit(&self) -> (&'static str, Option<Unit>) {
        for (end, unit) in [("_seconds", Unit::Seconds), ("_bytes", Unit::Bytes)] {
            if let Some(name) = self.name.strip_suffix(end) {
                return (name, Some(unit));
            }
        }
        (self.name, None)
    }
}

impl From<Kind> for MetricType {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Counter => Self::Counter,
            Kind::Gauge => Self::Gauge,
            Kind::Histogram => Self::Histogram,
            Kind::Info => Self::Info,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn in_the_text_format_a_family_is_named_as_its_samples() {
        let page = "# HELP a_seen Seen by now.\n# TYPE a_seen counter\na_seen_total{x=\"1 2\"} 3\n\
                    # HELP a_bytes Held.\n# TYPE a_bytes gauge\n# UNIT a_bytes bytes\na_bytes 4\n\
                    # HELP a What.\n# TYPE a info\na_info{version=\"1\"} 1\n# EOF\n";
        assert_eq!(Format::OpenMetrics.of(page.to_owned()), page);
        assert_eq!(
            Format::Text.of(page.to_owned()),
            "# HELP a_seen_total Seen by now.\n# TYPE a_seen_total counter\na_seen_total{x=\"1 2\"} 3\n\
             # HELP a_bytes Held.\n# TYPE a_bytes gauge\na_bytes 4\n\
             # HELP a_info What.\n# TYPE a_info gauge\na_info{version=\"1\"} 1\n"
        );
    }
}
