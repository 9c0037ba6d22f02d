//! Replies of Redis, in the protocol RESP2, from bytes. Pure.
//!
//! **A reply is read within the bounds of its call**: of bytes, of values and of depth. What has been read of a list is
//! kept, so that a long one is read once, however its bytes arrive.

use crate::wait::Value;

/// Deeper lists are no replies of Redis.
const DEPTH_MAX: usize = 32;
/// What a value costs beside its bytes.
const VALUE_BYTES: usize = 32;
/// The longest line: a status, an error or a number.
const LINE_MAX: usize = 64 << 10;

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Reply {
    Nil,
    Integer(i64),
    /// A status such as `OK` is a string, too.
    Bytes(Vec<u8>),
    /// `WRONGTYPE Operation against …`
    Error(String),
    List(Vec<Self>),
}

/// Why bytes are no reply of the call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Bad {
    /// The server speaks another protocol.
    Malformed(String),
    TooLarge,
}

/// A list that has begun.
#[derive(Debug)]
struct Open {
    left: usize,
    items: Vec<Reply>,
}

/// Reads the replies of one call.
#[derive(Debug)]
pub(super) struct Parser {
    open: Vec<Open>,
    /// What the call may still read.
    left: usize,
}

impl Parser {
    pub(super) fn new(most: usize) -> Self {
        Self {
            open: Vec::new(),
            left: most,
        }
    }

    /// What the call may still read.
    pub(super) fn left(&self) -> usize {
        self.left
    }

    /// Reads on in `bytes`. Returns how many of them are read, and the reply where it is whole.
    pub(super) fn feed(&mut self, bytes: &[u8]) -> Result<(usize, Option<Reply>), Bad> {
        let mut used = 0;
        loop {
            let Some((length, item)) = self.item(&bytes[used..])? else {
                return Ok((used, None));
            };
            used += length;
            if let Some(reply) = item.and_then(|item| self.close(item)) {
                return Ok((used, Some(reply)));
            }
        }
    }

    /// The next value; `None` inside for a list that has begun.
    fn item(&mut self, bytes: &[u8]) -> Result<Option<(usize, Option<Reply>)>, Bad> {
        let Some(end) = bytes
            .windows(2)
            .take(LINE_MAX)
            .position(|two| two == b"\r\n")
        else {
            if bytes.len() > LINE_MAX {
                return Err(Bad::Malformed("a line has no end".to_owned()));
            }
            return Ok(None);
        };
        let (line, behind) = (&bytes[1.min(end)..end], end + 2);
        let whole = |reply| Ok(Some((behind, Some(reply))));
        let kind = bytes[0];
        match kind {
            b'$' => {
                let Some(length) = length(line)? else {
                    self.cost(0)?;
                    return whole(Reply::Nil);
                };
                // The bound counts before the bytes are there.
                if length > self.left {
                    return Err(Bad::TooLarge);
                }
                let Some(found) = bytes.get(behind..behind + length + 2) else {
                    return Ok(None);
                };
                let (value, last) = found.split_at(length);
                if last != b"\r\n" {
                    return Err(Bad::Malformed("a string has another length".to_owned()));
                }
                self.cost(length)?;
                Ok(Some((
                    behind + length + 2,
                    Some(Reply::Bytes(value.to_vec())),
                )))
            }
            b'*' => {
                let Some(length) = length(line)? else {
                    self.cost(0)?;
                    return whole(Reply::Nil);
                };
                self.begin(length)?;
                Ok(Some((
                    behind,
                    (length == 0).then(|| Reply::List(Vec::new())),
                )))
            }
            b':' => {
                self.cost(0)?;
                let number = text(line).parse();
                whole(Reply::Integer(number.map_err(|_| malformed(line))?))
            }
            b'+' => {
                self.cost(line.len())?;
                whole(Reply::Bytes(line.to_vec()))
            }
            b'-' => {
                self.cost(line.len())?;
                whole(Reply::Error(text(line).into_owned()))
            }
            _ => Err(malformed(&bytes[..end])),
        }
    }

    fn cost(&mut self, bytes: usize) -> Result<(), Bad> {
        let left = self.left.checked_sub(bytes + VALUE_BYTES);
        self.left = left.ok_or(Bad::TooLarge)?;
        Ok(())
    }

    fn begin(&mut self, length: usize) -> Result<(), Bad> {
        self.cost(0)?;
        if length > self.left / VALUE_BYTES {
            return Err(Bad::TooLarge);
        }
        if self.open.len() == DEPTH_MAX {
            let message = format!("lists within lists, more than {DEPTH_MAX} deep");
            return Err(Bad::Malformed(message));
        }
        if length > 0 {
            self.open.push(Open {
                left: length,
                items: Vec::new(),
            });
        }
        Ok(())
    }

    /// Puts an item into the innermost list. Returns the reply that it completes.
    fn close(&mut self, mut item: Reply) -> Option<Reply> {
        loop {
            let Some(list) = self.open.last_mut() else {
                return Some(item);
            };
            list.items.push(item);
            list.left -= 1;
            if list.left > 0 {
                return None;
            }
            item = Reply::List(self.open.pop()?.items);
        }
    }
}

/// A length; `None` is that of nil.
fn length(line: &[u8]) -> Result<Option<usize>, Bad> {
    match text(line).parse::<i64>() {
        Ok(-1) => Ok(None),
        Ok(length) if length >= 0 => Ok(Some(length as usize)),
        _ => Err(malformed(line)),
    }
}

fn text(line: &[u8]) -> std::borrow::Cow<'_, str> {
    String::from_utf8_lossy(line)
}

fn malformed(line: &[u8]) -> Bad {
    let shown: Vec<u8> = line.iter().copied().take(40).collect();
    Bad::Malformed(format!("`{}` begins no reply", shown.escape_ascii()))
}

impl Reply {
    /// The first error in it.
    pub(super) fn error(&self) -> Option<&str> {
        match self {
            Self::Error(error) => Some(error),
            Self::List(items) => items.iter().find_map(Self::error),
            _ => None,
        }
    }

    /// As handlers see it. Nil in a list is `tide.null`, since Lua's lists have no holes.
    pub(super) fn value(self) -> Value {
        match self {
            Self::Nil => Value::Nil,
            other => other.inner(),
        }
    }

    fn inner(self) -> Value {
        match self {
            Self::Nil => Value::Null,
            Self::Integer(number) => Value::Integer(number),
            Self::Bytes(bytes) => Value::Bytes(bytes.into()),
            Self::Error(error) => Value::Bytes(error.into_bytes().into()),
            Self::List(items) => {
                let items = items.into_iter().map(Self::inner);
                Value::Table((1..).map(Value::Integer).zip(items).collect())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn all(bytes: &[u8], most: usize) -> Result<Option<Reply>, Bad> {
        Parser::new(most).feed(bytes).map(|(_, reply)| reply)
    }

    #[test]
    fn a_reply_is_read_and_nothing_behind_it() {
        let bytes = b"*4\r\n$3\r\n\0\r\n\r\n:-7\r\n$-1\r\n*2\r\n+OK\r\n-ERR no\r\n+next\r\n";
        let (used, reply) = Parser::new(1 << 20).feed(bytes).unwrap();
        assert_eq!(&bytes[used..], b"+next\r\n");
        let inner = Reply::List(vec![
            Reply::Bytes(b"OK".to_vec()),
            Reply::Error("ERR no".to_owned()),
        ]);
        let expected = Reply::List(vec![
            Reply::Bytes(b"\0\r\n".to_vec()),
            Reply::Integer(-7),
            Reply::Nil,
            inner,
        ]);
        assert_eq!(reply, Some(expected));
    }

    #[test]
    fn nil_alone_is_nil_and_in_a_list_null() {
        assert_eq!(all(b"$-1\r\n", 99).unwrap().unwrap().value(), Value::Nil);
        assert_eq!(all(b"*-1\r\n", 99).unwrap().unwrap().value(), Value::Nil);
        let list = all(b"*1\r\n$-1\r\n", 99).unwrap().unwrap();
        let expected = Value::Table(vec![(Value::Integer(1), Value::Null)]);
        assert_eq!(list.value(), expected);
        assert_eq!(all(b"*0\r\n", 99).unwrap(), Some(Reply::List(Vec::new())));
    }

    #[test]
    fn what_is_no_reply_or_too_large_is_refused_before_it_is_there() {
        for bytes in [
            &b"HTTP/1.1 400\r\n"[..],
            b":x\r\n",
            b"$-2\r\n",
            b"\r\n",
            b"$2\r\nabc\r\n",
        ] {
            let found = all(bytes, 1 << 20);
            assert!(matches!(found, Err(Bad::Malformed(_))), "{found:?}");
        }
        assert_eq!(all(b"$5000000000\r\n", 1 << 20), Err(Bad::TooLarge));
        assert_eq!(all(b"*1000000000\r\n", 1 << 20), Err(Bad::TooLarge));
        assert_eq!(all(b"*2\r\n:1\r\n:2\r\n", 3 * 32 - 1), Err(Bad::TooLarge));
        assert!(all(b"*2\r\n:1\r\n:2\r\n", 3 * 32).unwrap().is_some());
        let deep = "*1\r\n".repeat(40);
        assert!(matches!(
            all(deep.as_bytes(), 1 << 20),
            Err(Bad::Malformed(_))
        ));
        let line = [b"+".to_vec(), vec![b'a'; LINE_MAX + 1]].concat();
        assert!(matches!(all(&line, 1 << 20), Err(Bad::Malformed(_))));
    }

    fn written(reply: &Reply, out: &mut Vec<u8>) {
        match reply {
            Reply::Nil => out.extend(b"$-1\r\n"),
            Reply::Integer(number) => out.extend(format!(":{number}\r\n").bytes()),
            Reply::Bytes(bytes) => {
                out.extend(format!("${}\r\n", bytes.len()).bytes());
                out.extend(bytes);
                out.extend(b"\r\n");
            }
            Reply::Error(error) => out.extend(format!("-{error}\r\n").bytes()),
            Reply::List(items) => {
                out.extend(format!("*{}\r\n", items.len()).bytes());
                for item in items {
                    written(item, out);
                }
            }
        }
    }

    fn replies() -> impl Strategy<Value = Reply> {
        let leaf = prop_oneof![
            Just(Reply::Nil),
            any::<i64>().prop_map(Reply::Integer),
            proptest::collection::vec(any::<u8>(), 0..20).prop_map(Reply::Bytes),
            "[A-Z]{1,5} [a-z ]{0,9}".prop_map(Reply::Error),
        ];
        leaf.prop_recursive(4, 30, 5, |inner| {
            proptest::collection::vec(inner, 0..5).prop_map(Reply::List)
        })
    }

    proptest! {
        #[test]
        fn however_the_bytes_arrive_the_replies_are_the_same(
            expected in proptest::collection::vec(replies(), 1..4),
            cuts in proptest::collection::vec(1..9_usize, 1..200),
        ) {
            let mut bytes = Vec::new();
            for reply in &expected {
                written(reply, &mut bytes);
            }
            let mut parser = Parser::new(1 << 20);
            let (mut buffer, mut found) = (Vec::new(), Vec::new());
            let mut rest = bytes.as_slice();
            for cut in cuts.iter().cycle() {
                let (now, later) = rest.split_at((*cut).min(rest.len()));
                buffer.extend_from_slice(now);
                rest = later;
                loop {
                    let (used, reply) = parser.feed(&buffer).unwrap();
                    buffer.drain(..used);
                    match reply {
                        Some(reply) => found.push(reply),
                        None => break,
                    }
                }
                if rest.is_empty() {
                    break;
                }
            }
            prop_assert_eq!(found, expected);
            prop_assert!(buffer.is_empty());
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = all(&bytes, 1 << 16);
        }
    }
}
