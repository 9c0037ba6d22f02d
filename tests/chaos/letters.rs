//! The dead-letter topic, read by the suite itself: where each letter says that it comes from.

use rdkafka::message::{BorrowedMessage, Headers as _, Message as _};

use crate::fate::key_of;

pub(crate) struct Letter {
    pub(crate) partition: usize,
    pub(crate) offset: i64,
    /// The process died while this message was running, again and again: a letter that no handler asked for.
    pub(crate) is_suspect: bool,
}

pub(crate) fn letter(message: &BorrowedMessage<'_>) -> Result<Letter, String> {
    let header = |name: &str| {
        let name = format!("moontide-{name}");
        let mut headers = message.headers()?.iter();
        let value = headers.find(|header| header.key == name)?.value?;
        Some(String::from_utf8_lossy(value).into_owned())
    };
    let number = |name: &str| header(name)?.parse::<i64>().ok();
    let place = number("origin-partition").zip(number("origin-offset"));
    let Some((partition, offset)) = place else {
        return Err("a dead letter does not say where it comes from".to_owned());
    };
    let value = message.payload().map(String::from_utf8_lossy);
    let whole = value
        .as_deref()
        .and_then(|value| value.trim_end().parse().ok());
    let is_whole = whole.is_some_and(|number: i64| {
        number <= offset && message.key() == Some(key_of(number).as_bytes())
    });
    if !is_whole {
        return Err(format!(
            "the dead letter of {offset} in partition {partition} has the value {value:?}"
        ));
    }
    let error = header("error").unwrap_or_default();
    Ok(Letter {
        partition: partition as usize,
        offset,
        is_suspect: error.contains("the process died"),
    })
}
