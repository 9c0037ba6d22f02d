//! A store in Redis, which all members of a group share. Its operations are commands of the client of the VM.
//!
//! An integer lies there as its digits, so that Redis counts by itself, and exactly. Every other value begins with a
//! letter (`codec`). A change of one key is one command or one script, so nothing comes between.

use std::sync::Arc;
use std::time::Duration;

use super::codec;
use super::op::{self, Bytes, Done, Op};
use crate::wait::redis::{Command, Redis, Request, Work};
use crate::wait::{Fault, Value};

/// Keys that one SCAN looks at.
const LOOKED_AT: &str = "1000";
/// The most keys of a scan or a count: they lie in memory until the end.
const KEYS_MAX: usize = 1_000_000;
/// Values that one command reads.
const VALUES: usize = 500;

/// Counts; the sum of a new counter comes with its time in milliseconds, or with none. A script of Redis would lose
/// digits of large numbers, so the reply is a string.
const INCR: &str = "
if redis.call('EXISTS', KEYS[1]) == 0 then
  if ARGV[3] == '' then redis.call('SET', KEYS[1], ARGV[2])
  else redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3]) end
  return ARGV[2]
end
local reply = redis.pcall('INCRBY', KEYS[1], ARGV[1])
if type(reply) == 'table' and reply.err then return { redis.call('GET', KEYS[1]) } end
return redis.call('GET', KEYS[1])";

/// Puts a value in the place of another, and replies 1; else replies what is there.
const SWAP: &str = "
local found = redis.call('GET', KEYS[1])
if ARGV[1] == '' then
  if found then return { found } end
elseif not found then return { false }
elseif found ~= ARGV[2] then return { found } end
if ARGV[3] == '' then redis.call('DEL', KEYS[1])
elseif ARGV[5] ~= '' then redis.call('SET', KEYS[1], ARGV[4], 'PX', ARGV[5])
elseif found then redis.call('SET', KEYS[1], ARGV[4], 'KEEPTTL')
else redis.call('SET', KEYS[1], ARGV[4]) end
return 1";

#[derive(Clone, Debug)]
pub(super) struct RedisStore {
    /// The name of the table `[redis.NAME]`.
    pub(super) server: String,
    pub(super) prefix: String,
    pub(super) is_cluster: bool,
}

impl RedisStore {
    pub(super) async fn run(self, op: Op, redis: Arc<dyn Redis>) -> Result<Done, Fault> {
        match op {
            Op::Get { key } => {
                let reply = self
                    .one(&redis, vec![b"GET".to_vec(), self.key(&key)])
                    .await?;
                Ok(Done::Value(value(reply)?))
            }
            Op::Set { key, value, ttl } => {
                let mut command = vec![b"SET".to_vec(), self.key(&key), digits(value.into())];
                if let Some(ttl) = ttl {
                    command.extend([b"PX".to_vec(), ms(Some(ttl))]);
                }
                self.one(&redis, command).await?;
                Ok(Done::Nothing)
            }
            Op::Delete { key } => {
                let reply = self
                    .one(&redis, vec![b"DEL".to_vec(), self.key(&key)])
                    .await?;
                Ok(Done::Deleted(reply == Value::Integer(1)))
            }
            Op::Incr { key, by, init, ttl } => {
                let sum = op::sum(None, by, init)?;
                let arguments = vec![text(by), text(sum), ms(ttl)];
                counted(self.script(&redis, INCR, &key, arguments).await?)
            }
            Op::Swap { key, old, new, ttl } => {
                let is_there =
                    |one: &Option<Bytes>| one.as_ref().map_or(Vec::new(), |_| b"1".to_vec());
                let arguments = vec![
                    is_there(&old),
                    digits(old.clone().unwrap_or_default().into()),
                    is_there(&new),
                    digits(new.clone().unwrap_or_default().into()),
                    ms(ttl),
                ];
                match self.script(&redis, SWAP, &key, arguments).await? {
                    Value::Integer(_) => Ok(Done::Swapped(Ok(()))),
                    reply => Ok(Done::Swapped(Err(value(first(reply))?))),
                }
            }
            Op::Scan {
                prefix,
                after,
                limit,
            } => {
                let mut keys = self.keys(&redis, &prefix).await?;
                keys.retain(|key| after.as_ref().is_none_or(|after| key[..] > after[..]));
                keys.sort_unstable();
                keys.dedup();
                self.values(&redis, keys, limit).await
            }
            Op::Size => {
                let mut keys = self.keys(&redis, &[]).await?;
                keys.sort_unstable();
                keys.dedup();
                Ok(Done::Number(keys.len() as i64))
            }
        }
    }

    fn key(&self, key: &[u8]) -> Vec<u8> {
        [self.prefix.as_bytes(), key].concat()
    }

    async fn one(&self, redis: &Arc<dyn Redis>, command: Command) -> Result<Value, Fault> {
        self.work(redis, Work::One(command)).await
    }

    async fn script(
        &self,
        redis: &Arc<dyn Redis>,
        script: &str,
        key: &[u8],
        arguments: Vec<Vec<u8>>,
    ) -> Result<Value, Fault> {
        let work = Work::Script {
            text: script.as_bytes().to_vec(),
            keys: vec![self.key(key)],
            arguments,
        };
        self.work(redis, work).await
    }

    async fn work(&self, redis: &Arc<dyn Redis>, work: Work) -> Result<Value, Fault> {
        let prepared = redis.request(Request {
            function: "tide.kv",
            server: self.server.clone(),
            work,
            timeout: None,
        })?;
        prepared.requesting.await
    }

    /// All keys below the prefix, without the part that is the store's, in the order of Redis.
    async fn keys(&self, redis: &Arc<dyn Redis>, prefix: &[u8]) -> Result<Vec<Vec<u8>>, Fault> {
        if self.is_cluster {
            let message = "the keys of a cluster lie on several servers, and none lists them all";
            return Err(Fault::new("refused", message));
        }
        let mut pattern = Vec::new();
        for byte in self.key(prefix) {
            if b"*?[]\\".contains(&byte) {
                pattern.push(b'\\');
            }
            pattern.push(byte);
        }
        pattern.push(b'*');
        let mut keys = Vec::new();
        let mut cursor = b"0".to_vec();
        loop {
            let words = [&b"SCAN"[..], &cursor, b"MATCH", &pattern, b"COUNT"];
            let mut command: Command = words.iter().map(|word| word.to_vec()).collect();
            command.push(LOOKED_AT.as_bytes().to_vec());
            let (next, found) = cursor_and_keys(self.one(redis, command).await?)?;
            let own = found.into_iter().filter_map(|key| {
                let own = key.strip_prefix(self.prefix.as_bytes())?;
                Some(own.to_vec())
            });
            keys.extend(own);
            if keys.len() > KEYS_MAX {
                let message = format!("the store has more than {KEYS_MAX} keys with this prefix");
                return Err(Fault::new("tooLarge", message));
            }
            if next == b"0" {
                return Ok(keys);
            }
            cursor = next;
        }
    }

    /// The values of the first keys. One that has expired since counts no more.
    async fn values(
        &self,
        redis: &Arc<dyn Redis>,
        keys: Vec<Vec<u8>>,
        limit: usize,
    ) -> Result<Done, Fault> {
        let mut entries: Vec<(Bytes, Bytes)> = Vec::new();
        for keys in keys.chunks(VALUES.min(limit)) {
            let mut command = vec![b"MGET".to_vec()];
            command.extend(keys.iter().map(|key| self.key(key)));
            let replies = list(self.one(redis, command).await?);
            for (key, reply) in keys.iter().zip(replies) {
                if entries.len() == limit {
                    return Ok(Done::Entries(entries));
                }
                if let Some(bytes) = value(reply)? {
                    entries.push((key.as_slice().into(), bytes));
                }
            }
        }
        Ok(Done::Entries(entries))
    }
}

fn text(number: i64) -> Vec<u8> {
    number.to_string().into_bytes()
}

/// A time in milliseconds; none is empty.
fn ms(ttl: Option<Duration>) -> Vec<u8> {
    ttl.map_or(Vec::new(), |ttl| ttl.as_millis().to_string().into_bytes())
}

/// A value as it lies in Redis.
fn digits(bytes: Vec<u8>) -> Vec<u8> {
    codec::integer(&bytes).map_or(bytes, text)
}

/// A reply as a value of `codec`, which is read where it is used.
fn value(reply: Value) -> Result<Option<Bytes>, Fault> {
    match reply {
        Value::Bytes(bytes) => {
            let is_number = bytes
                .first()
                .is_some_and(|first| first.is_ascii_digit() || *first == b'-');
            if !is_number {
                return Ok(Some(bytes));
            }
            let number = std::str::from_utf8(&bytes).ok();
            let number = number.and_then(|text| text.parse().ok());
            let foreign =
                || Fault::new("invalid", "the entry is a number that no store has written");
            let number = number.ok_or_else(foreign)?;
            Ok(Some(codec::of_integer(number).into()))
        }
        _ => Ok(None),
    }
}

/// The sum, or the value that is none.
fn counted(reply: Value) -> Result<Done, Fault> {
    match reply {
        Value::Bytes(bytes) => {
            let sum = std::str::from_utf8(&bytes).ok();
            let sum = sum.and_then(|text| text.parse().ok());
            let foreign = || Fault::new("internal", "the reply of a counter is no number");
            sum.map(Done::Number).ok_or_else(foreign)
        }
        reply => {
            let found = value(first(reply))?.unwrap_or_default();
            if codec::integer(&found).is_some() {
                let message = "the sum would be no integer of 64 bits";
                return Err(Fault::new("invalid", message));
            }
            Err(op::not_a_number(codec::kind(&found)))
        }
    }
}

/// The values of a list. A list with nil in it comes as pairs, too.
fn list(reply: Value) -> Vec<Value> {
    match reply {
        Value::Table(pairs) => pairs.into_iter().map(|(_, value)| value).collect(),
        _ => Vec::new(),
    }
}

fn first(reply: Value) -> Value {
    list(reply).into_iter().next().unwrap_or(Value::Nil)
}

fn cursor_and_keys(reply: Value) -> Result<(Vec<u8>, Vec<Vec<u8>>), Fault> {
    let mut both = list(reply).into_iter();
    match (both.next(), both.next()) {
        (Some(Value::Bytes(cursor)), Some(keys)) => {
            let keys = list(keys).into_iter().filter_map(|key| match key {
                Value::Bytes(key) => Some(key.into()),
                _ => None,
            });
            Ok((cursor.into(), keys.collect()))
        }
        _ => Err(Fault::new("internal", "the reply of SCAN has another form")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(text: &str) -> Value {
        Value::Bytes(text.as_bytes().into())
    }

    #[test]
    fn an_integer_lies_there_as_its_digits() {
        for number in [0, -1, i64::MIN, i64::MAX] {
            let stored = digits(codec::of_integer(number));
            assert_eq!(stored, number.to_string().into_bytes());
            let read = value(Value::Bytes(stored.into())).unwrap().unwrap();
            assert_eq!(codec::integer(&read), Some(number));
        }
        let text = codec::encode(&bytes("42"));
        assert_eq!(digits(text.clone()), text);
        assert_eq!(
            value(Value::Bytes(text.clone().into())),
            Ok(Some(text.into()))
        );
        assert_eq!(value(bytes("12:30")).unwrap_err().kind, "invalid");
        assert_eq!(value(Value::Nil), Ok(None));
    }

    #[test]
    fn a_sum_is_a_number_or_tells_what_is_there() {
        let reply = |inner| Value::Table(vec![(Value::Integer(1), inner)]);
        assert_eq!(counted(bytes("7")), Ok(Done::Number(7)));
        let fault = counted(reply(bytes("s\u{1}a"))).unwrap_err();
        assert_eq!(fault, op::not_a_number("a string"));
        let fault = counted(reply(bytes("9223372036854775807"))).unwrap_err();
        assert!(fault.message.contains("64 bits"), "{fault:?}");
    }
}
