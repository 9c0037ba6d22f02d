//! Commands that a log line offers for copying.

/// The command that gives one message up in one listener.
pub(crate) fn skip(topic: &str, partition: i32, offset: i64, listener: &str) -> String {
    let (topic, listener) = (quote(topic), quote(listener));
    format!("moontide skip {topic} {partition} {offset} --listener {listener}")
}

/// The command that lets messages of a held partition run again.
pub(crate) fn accept(topic: &str, partition: i32) -> String {
    format!("moontide accept {} {partition}", quote(topic))
}

/// Quotes an argument so that a shell reads it back unchanged.
pub(crate) fn quote(argument: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-./:=@%+,".contains(c);
    if !argument.is_empty() && argument.chars().all(plain) {
        argument.to_owned()
    } else {
        format!("'{}'", argument.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shell_reads_back_what_was_quoted() {
        assert_eq!(quote("examples/a-b.toml"), "examples/a-b.toml");
        assert_eq!(quote(""), "''");
        assert_eq!(quote(r#"{"it's": 1}"#), r#"'{"it'\''s": 1}'"#);
    }

    #[test]
    fn the_command_names_one_partition() {
        assert_eq!(accept("my orders", 3), "moontide accept 'my orders' 3");
    }

    #[test]
    fn the_command_names_one_message_and_its_listener() {
        assert_eq!(
            skip("orders", 3, 12, "my bills"),
            "moontide skip orders 3 12 --listener 'my bills'"
        );
    }
}
