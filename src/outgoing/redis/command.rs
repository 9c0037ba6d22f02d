//! What the client must know of commands: their keys, how long they block, and those that a shared connection cannot
//! have. Pure.

use std::time::Duration;

use crate::wait::redis::Command;

/// The number of slots of a cluster.
pub(super) const SLOTS: u16 = 16_384;

/// Appends a command as it is sent.
pub(super) fn write(command: &[Vec<u8>], out: &mut Vec<u8>) {
    let bytes = command.iter().map(|one| one.len() + 16).sum::<usize>();
    out.reserve(bytes + 16);
    out.extend(format!("*{}\r\n", command.len()).bytes());
    for one in command {
        out.extend(format!("${}\r\n", one.len()).bytes());
        out.extend_from_slice(one);
        out.extend_from_slice(b"\r\n");
    }
}

pub(super) fn write_all(commands: &[Command], out: &mut Vec<u8>) {
    for command in commands {
        write(command, out);
    }
}

/// A command of words, as a string of them.
pub(super) fn words(text: &str) -> Command {
    text.split(' ')
        .map(|word| word.as_bytes().to_vec())
        .collect()
}

/// The name in capitals, for errors and the status. One that is no word has none.
pub(super) fn name(command: &[Vec<u8>]) -> String {
    let is_usual = |byte: &u8| byte.is_ascii_alphanumeric() || b"._-".contains(byte);
    match command.first() {
        Some(name) if !name.is_empty() && name.len() <= 40 && name.iter().all(is_usual) => {
            String::from_utf8_lossy(name).to_ascii_uppercase()
        }
        _ => "a command".to_owned(),
    }
}

fn is(word: &[u8], expected: &str) -> bool {
    word.eq_ignore_ascii_case(expected.as_bytes())
}

fn number(word: Option<&Vec<u8>>) -> Option<usize> {
    std::str::from_utf8(word?).ok()?.parse().ok()
}

/// The first key. All keys of a command must lie in one slot, which the server checks.
pub(super) fn key(command: &[Vec<u8>]) -> Option<&[u8]> {
    let name = name(command);
    let at = match name.as_str() {
        "ACL" | "BGREWRITEAOF" | "BGSAVE" | "CLIENT" | "CLUSTER" | "COMMAND" | "CONFIG"
        | "DBSIZE" | "ECHO" | "FAILOVER" | "FLUSHALL" | "FLUSHDB" | "FUNCTION" | "INFO"
        | "KEYS" | "LASTSAVE" | "LATENCY" | "LOLWUT" | "MODULE" | "PING" | "PUBLISH" | "PUBSUB"
        | "RANDOMKEY" | "ROLE" | "SAVE" | "SCAN" | "SCRIPT" | "SHUTDOWN" | "SLOWLOG" | "SWAPDB"
        | "TIME" | "WAIT" | "WAITAOF" => return None,
        // Of some of these the number of keys stands before them.
        "BITOP" | "LMPOP" | "OBJECT" | "SINTERCARD" | "XGROUP" | "XINFO" | "ZDIFF" | "ZINTER"
        | "ZINTERCARD" | "ZMPOP" | "ZUNION" => 2,
        "DEBUG" => command
            .get(1)
            .filter(|word| is(word, "OBJECT"))
            .map(|_| 2)?,
        "MEMORY" => command.get(1).filter(|word| is(word, "USAGE")).map(|_| 2)?,
        "BLMPOP" | "BZMPOP" | "MIGRATE" => 3,
        "EVAL" | "EVALSHA" | "EVALSHA_RO" | "EVAL_RO" | "FCALL" | "FCALL_RO" => {
            number(command.get(2)).filter(|count| *count > 0)?;
            3
        }
        "XREAD" | "XREADGROUP" => command.iter().position(|word| is(word, "STREAMS"))? + 1,
        _ => 1,
    };
    command.get(at).map(Vec::as_slice)
}

/// The slot of a key. Where it has a tag in braces, that alone counts.
pub(super) fn slot(key: &[u8]) -> u16 {
    let tag = key.iter().position(|byte| *byte == b'{').and_then(|open| {
        let rest = &key[open + 1..];
        let close = rest.iter().position(|byte| *byte == b'}')?;
        (close > 0).then(|| &rest[..close])
    });
    crc16(tag.unwrap_or(key)) % SLOTS
}

/// CRC-16 of XMODEM.
fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc: u16, byte| {
        let mut crc = crc ^ (u16::from(*byte) << 8);
        for _ in 0..8 {
            crc = if crc & 0x8000 == 0 {
                crc << 1
            } else {
                (crc << 1) ^ 0x1021
            };
        }
        crc
    })
}

/// How long a command blocks on its own.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Blocks {
    No,
    For(Duration),
    Forever,
}

/// Whether a command waits in the server, which then serves nothing else on its connection.
pub(super) fn blocks(command: &[Vec<u8>]) -> Blocks {
    let seconds = |word: Option<&Vec<u8>>| {
        let text = word.and_then(|word| std::str::from_utf8(word).ok());
        let seconds = text.and_then(|text| text.parse::<f64>().ok());
        // What is no time is an error of the server, which comes at once.
        match seconds.map(Duration::try_from_secs_f64) {
            Some(Ok(Duration::ZERO)) => Blocks::Forever,
            Some(Ok(time)) => Blocks::For(time),
            _ => Blocks::For(Duration::ZERO),
        }
    };
    let millis = |word: Option<&Vec<u8>>| match number(word) {
        Some(0) => Blocks::Forever,
        Some(ms) => Blocks::For(Duration::from_millis(ms as u64)),
        None => Blocks::For(Duration::ZERO),
    };
    match name(command).as_str() {
        "BLMOVE" | "BLPOP" | "BRPOP" | "BRPOPLPUSH" | "BZPOPMAX" | "BZPOPMIN" => {
            seconds(command.last())
        }
        "BLMPOP" | "BZMPOP" => seconds(command.get(1)),
        "WAIT" => millis(command.get(2)),
        "WAITAOF" => millis(command.get(3)),
        "XREAD" | "XREADGROUP" => {
            let options = command.iter().take_while(|word| !is(word, "STREAMS"));
            let at = options.clone().position(|word| is(word, "BLOCK"));
            at.map_or(Blocks::No, |at| millis(command.get(at + 1)))
        }
        _ => Blocks::No,
    }
}

/// Why a command is not possible here: it changes the connection, which calls share one after the other.
pub(super) fn refusal(command: &[Vec<u8>]) -> Option<&'static str> {
    let second = command.get(1);
    Some(match name(command).as_str() {
        "MULTI" | "EXEC" | "DISCARD" => {
            "`:pipeline(commands, { atomic = true })` runs commands as one transaction"
        }
        "WATCH" | "UNWATCH" => "`:script` reads and writes in one step",
        "SELECT" => "the database stands in `url`",
        "AUTH" | "HELLO" => "`user` and `password` stand in the configuration",
        "SUBSCRIBE" | "PSUBSCRIBE" | "SSUBSCRIBE" | "UNSUBSCRIBE" | "PUNSUBSCRIBE"
        | "SUNSUBSCRIBE" | "MONITOR" => {
            "messages without a question have no handler here; a stream and XREADGROUP keep them"
        }
        "ASKING" | "QUIT" | "READONLY" | "READWRITE" | "RESET" | "SYNC" | "PSYNC" | "REPLCONF" => {
            "Moontide keeps the connections"
        }
        "CLIENT" => {
            let own = [
                "CACHING", "NO-EVICT", "NO-TOUCH", "REPLY", "SETINFO", "SETNAME", "TRACKING",
            ];
            let is_own = |word: &Vec<u8>| own.iter().any(|one| is(word, one));
            return second
                .is_some_and(is_own)
                .then_some("Moontide keeps the connections");
        }
        "SCRIPT" => {
            return second
                .is_some_and(|word| is(word, "DEBUG"))
                .then_some("a script is debugged by redis-cli --ldb");
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key_of(text: &str) -> Option<String> {
        let command = words(text);
        key(&command).map(|key| String::from_utf8_lossy(key).into_owned())
    }

    #[test]
    fn the_first_key_of_a_command_is_found() {
        for (text, expected) in [
            ("get k", Some("k")),
            ("MSET k 1 l 2", Some("k")),
            ("JSON.SET k $ 1", Some("k")),
            ("ping", None),
            ("FLUSHALL", None),
            ("EVAL s 1 k a", Some("k")),
            ("EVAL s 0 a", None),
            ("EVALSHA s x a", None),
            ("XREADGROUP GROUP g c COUNT 1 STREAMS k >", Some("k")),
            ("XREAD BLOCK 0 streams k 0", Some("k")),
            ("BITOP AND k a b", Some("k")),
            ("OBJECT ENCODING k", Some("k")),
            ("MEMORY USAGE k", Some("k")),
            ("MEMORY STATS", None),
            ("DEBUG SLEEP 1", None),
            ("ZUNION 2 k l", Some("k")),
            ("ZUNIONSTORE k 2 a b", Some("k")),
            ("BLMPOP 0 1 k LEFT", Some("k")),
            ("GET", None),
        ] {
            assert_eq!(key_of(text).as_deref(), expected, "{text}");
        }
    }

    /// The numbers are those of CLUSTER KEYSLOT.
    #[test]
    fn a_key_has_the_slot_that_servers_give_it() {
        for (key, expected) in [
            ("123456789", 12_739),
            ("foo", 12_182),
            ("", 0),
            ("{user1000}.following", 3_443),
            ("user1000", 3_443),
            ("{}foo", 9_500),
            ("foo{{bar}}zap", 4_015),
            ("{bar", 4_015),
            ("foo{bar}{zap}", 5_061),
            ("bar", 5_061),
        ] {
            assert_eq!(slot(key.as_bytes()), expected, "{key}");
        }
    }

    #[test]
    fn a_command_that_blocks_tells_how_long() {
        let after = |ms| Blocks::For(Duration::from_millis(ms));
        for (text, expected) in [
            ("GET k", Blocks::No),
            ("BLPOP k l 0", Blocks::Forever),
            ("brpop k 0.25", after(250)),
            ("BLMOVE a b LEFT RIGHT 2", after(2_000)),
            ("BLMPOP 1.5 1 k LEFT", after(1_500)),
            ("BLPOP k x", after(0)),
            ("XREAD COUNT 2 STREAMS k 0", Blocks::No),
            ("XREAD BLOCK 40 STREAMS k 0", after(40)),
            ("XREAD STREAMS BLOCK 0", Blocks::No),
            ("XREADGROUP GROUP g c BLOCK 0 STREAMS k >", Blocks::Forever),
            ("WAIT 1 500", after(500)),
            ("WAITAOF 1 0 0", Blocks::Forever),
        ] {
            assert_eq!(blocks(&words(text)), expected, "{text}");
        }
    }

    #[test]
    fn what_changes_the_connection_is_refused() {
        for text in [
            "multi",
            "WATCH k",
            "SELECT 1",
            "AUTH p",
            "SUBSCRIBE c",
            "CLIENT REPLY OFF",
        ] {
            assert!(refusal(&words(text)).is_some(), "{text}");
        }
        for text in ["GET k", "CLIENT LIST", "SCRIPT LOAD x", "PUBLISH c m"] {
            assert_eq!(refusal(&words(text)), None, "{text}");
        }
    }

    #[test]
    fn a_command_is_written_with_its_lengths() {
        let mut out = Vec::new();
        write(&[b"SET".to_vec(), b"\0\r\n".to_vec(), Vec::new()], &mut out);
        assert_eq!(out, b"*3\r\n$3\r\nSET\r\n$3\r\n\0\r\n\r\n$0\r\n\r\n");
    }
}
