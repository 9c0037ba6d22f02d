//! From the arguments of a method to a request, and from its reply to the value of the method. Pure: plain data in,
//! plain data out.
//!
//! An error is the part of a sentence behind the name of the function.

use std::time::Duration;

use super::super::options::{Fields, kind, list, timeout};
use crate::wait::Value;
use crate::wait::redis::{Command, Work};

/// The form of a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::lua) enum Shape {
    /// As it comes.
    Plain,
    /// 0 and 1 are a boolean: in Lua, 0 is true.
    Flag,
    /// A list of names and values is a table.
    Map,
}

/// A command that is a method.
pub(in crate::lua) struct Method {
    pub(in crate::lua) name: &'static str,
    pub(super) path: &'static str,
    pub(super) job: &'static str,
    pub(in crate::lua) parameters: &'static [&'static str],
    pub(super) shape: Shape,
}

/// What a function has read.
#[derive(Debug, PartialEq)]
pub(super) struct Read {
    pub(super) work: Work,
    pub(super) timeout: Option<Duration>,
}

/// A method with its arguments.
pub(super) fn method(method: &Method, arguments: Vec<Value>) -> Result<Read, String> {
    let (arguments, timeout) = with_options(arguments)?;
    let required = method.parameters.iter().filter(|one| **one != "...");
    let least = required.clone().count();
    let is_open = method.parameters.contains(&"...");
    let count = arguments.len();
    if count < least || count > least && !is_open {
        let takes = match method.parameters {
            [] => "nothing".to_owned(),
            parameters => format!("({})", parameters.join(", ")),
        };
        return Err(format!(" takes {takes}, and got {count} of them"));
    }
    let mut command: Command = vec![method.name.to_ascii_uppercase().into_bytes()];
    for (at, value) in arguments.into_iter().enumerate() {
        // Behind `...` the position is not that of the parameter.
        let named = method.parameters.iter().take_while(|one| **one != "...");
        let what = match named.into_iter().nth(at) {
            Some(name) => format!("`{name}`"),
            None => format!("argument {}", at + 1),
        };
        command.push(bytes(value).map_err(|found| wrong(&what, found))?);
    }
    let work = Work::One(command);
    Ok(Read { work, timeout })
}

/// `redis:call(name, ...)`.
pub(super) fn call(arguments: Vec<Value>) -> Result<Read, String> {
    let (arguments, timeout) = with_options(arguments)?;
    let work = Work::One(command(arguments, "")?);
    Ok(Read { work, timeout })
}

/// `redis:pipeline(commands, options?)`.
pub(super) fn pipeline(arguments: Vec<Value>) -> Result<Read, String> {
    let mut arguments = arguments.into_iter();
    let commands = arguments.next().unwrap_or(Value::Nil);
    let options = match arguments.next().unwrap_or(Value::Nil) {
        Value::Nil => Value::Table(Vec::new()),
        options => options,
    };
    let what = "a list of commands and a table of options";
    let mut fields = Fields::of(options, String::new(), what, &["atomic", "timeout"])?;
    let is_atomic = match fields.take("atomic") {
        Value::Nil => false,
        Value::Boolean(is_atomic) => is_atomic,
        other => {
            return fields.error(format!("`atomic` is {}, not true or false", kind(&other)));
        }
    };
    let timeout = timeout(&mut fields)?;
    let form = "a list of commands such as { { \"INCR\", \"hits\" }, { \"GET\", \"name\" } }";
    let items = list(commands).map_err(|found| format!(" takes {form}, not {found}"))?;
    let mut commands = Vec::with_capacity(items.len());
    for (item, number) in items.into_iter().zip(1..) {
        let place = format!(": command {number}");
        let item = list(item).map_err(|found| {
            format!("{place} is {found}, not a list such as {{ \"INCR\", \"hits\" }}")
        })?;
        commands.push(command(item, &place)?);
    }
    let work = Work::Pipeline {
        commands,
        is_atomic,
    };
    Ok(Read { work, timeout })
}

/// `redis:script(text, keys?, arguments?, options?)`.
pub(super) fn script(arguments: Vec<Value>) -> Result<Read, String> {
    let mut arguments = arguments.into_iter();
    let text = match arguments.next().unwrap_or(Value::Nil) {
        Value::Bytes(text) => text.into_vec(),
        other => {
            return Err(format!(
                " takes the text of a script, a list of keys and a list of arguments; the text is {}",
                kind(&other)
            ));
        }
    };
    let mut strings = |name: &str| match arguments.next().unwrap_or(Value::Nil) {
        Value::Nil => Ok(Vec::new()),
        value => {
            let items = list(value)
                .map_err(|found| format!(": `{name}` is {found}, not a list of strings"))?;
            let items = items.into_iter().zip(1..).map(|(item, number)| {
                let what = format!("{number} of `{name}`");
                bytes(item).map_err(|found| wrong(&what, found))
            });
            items.collect::<Result<Vec<_>, String>>()
        }
    };
    let (keys, values) = (strings("keys")?, strings("arguments")?);
    let timeout = options(arguments.next().unwrap_or(Value::Nil))?;
    let work = Work::Script {
        text,
        keys,
        arguments: values,
    };
    Ok(Read { work, timeout })
}

fn command(values: Vec<Value>, place: &str) -> Result<Command, String> {
    let mut values = values.into_iter();
    let name = match values.next() {
        Some(Value::Bytes(name)) if name.is_empty() => {
            return Err(format!("{place}: the name of the command is empty"));
        }
        Some(Value::Bytes(name)) => name,
        other => {
            let found = other.map_or("missing", |other| kind(&other));
            return Err(format!("{place}: the name of the command is {found}"));
        }
    };
    if name.iter().any(u8::is_ascii_whitespace) {
        return Err(format!(
            "{place}: the name of the command has a space; each word is an argument of its own, as in \
             \"CONFIG\", \"GET\""
        ));
    }
    let mut command = vec![name.into_vec()];
    for (value, number) in values.zip(2..) {
        let what = format!("argument {number}");
        let value = bytes(value).map_err(|found| format!("{place}{}", wrong(&what, found)))?;
        command.push(value);
    }
    Ok(command)
}

fn wrong(what: &str, found: &str) -> String {
    let hint = match found {
        "a table" => {
            "; values stand one after the other, as in redis:hset(key, field, value), and options come last"
        }
        "a boolean" => "; write 1 and 0, or a string",
        _ => "",
    };
    format!(": {what} is {found}, not a string or a number{hint}")
}

/// An argument as Redis takes it; an error is the type of another value.
fn bytes(value: Value) -> Result<Vec<u8>, &'static str> {
    match value {
        Value::Bytes(bytes) => Ok(bytes.into_vec()),
        Value::Integer(number) => Ok(number.to_string().into_bytes()),
        Value::Number(number) if number.is_nan() => Err("not a number (NaN)"),
        Value::Number(number) => Ok(number.to_string().into_bytes()),
        other => Err(kind(&other)),
    }
}

/// Takes a last table, which has the options.
fn with_options(mut arguments: Vec<Value>) -> Result<(Vec<Value>, Option<Duration>), String> {
    let timeout = match arguments.pop_if(|last| matches!(last, Value::Table(_))) {
        Some(last) => options(last)?,
        None => None,
    };
    Ok((arguments, timeout))
}

fn options(options: Value) -> Result<Option<Duration>, String> {
    let options = match options {
        Value::Nil => return Ok(None),
        options => options,
    };
    if let Value::Table(pairs) = &options
        && pairs
            .iter()
            .any(|(key, _)| matches!(key, Value::Integer(_)))
    {
        return Err(wrong("the last argument", "a table"));
    }
    let what = "a table of options at the end";
    let mut fields = Fields::of(options, String::new(), what, &["timeout"])?;
    timeout(&mut fields)
}

/// The value of a method.
pub(super) fn shaped(shape: Shape, reply: Value) -> Value {
    match (shape, reply) {
        (Shape::Flag, Value::Integer(number @ (0 | 1))) => Value::Boolean(number == 1),
        (Shape::Map, Value::Table(pairs)) => {
            let mut items = pairs.into_iter().map(|(_, item)| item);
            let mut map = Vec::with_capacity(items.len() / 2);
            while let (Some(name), Some(value)) = (items.next(), items.next()) {
                map.push((name, value));
            }
            Value::Table(map)
        }
        (_, reply) => reply,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Value {
        Value::Bytes(text.as_bytes().into())
    }

    fn table(pairs: Vec<(&str, Value)>) -> Value {
        let pairs = pairs.into_iter().map(|(name, value)| (text(name), value));
        Value::Table(pairs.collect())
    }

    fn items(values: Vec<Value>) -> Value {
        Value::Table((1..).map(Value::Integer).zip(values).collect())
    }

    const SET: Method = Method {
        name: "set",
        path: "redis:set",
        job: "redis.set",
        parameters: &["key", "value", "..."],
        shape: Shape::Plain,
    };

    fn words(read: Read) -> String {
        let Work::One(command) = read.work else {
            panic!("{read:?}");
        };
        let words = command.iter().map(|word| String::from_utf8_lossy(word));
        words.collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn numbers_are_exact_and_options_come_last() {
        let read = method(
            &SET,
            vec![
                text("k"),
                Value::Integer(i64::MIN),
                text("EX"),
                Value::Number(1.5),
                table(vec![("timeout", Value::Integer(250))]),
            ],
        );
        let read = read.unwrap();
        assert_eq!(read.timeout, Some(Duration::from_millis(250)));
        assert_eq!(words(read), "SET k -9223372036854775808 EX 1.5");
        let read = call(vec![text("zadd"), text("k"), Value::Number(f64::INFINITY)]);
        assert_eq!(words(read.unwrap()), "zadd k inf");
    }

    #[test]
    fn an_argument_that_redis_does_not_have_is_refused_with_its_place() {
        let set = |value| method(&SET, vec![text("k"), value]).unwrap_err();
        assert_eq!(
            set(Value::Nil),
            ": `value` is nil, not a string or a number"
        );
        assert_eq!(
            set(Value::Boolean(true)),
            ": `value` is a boolean, not a string or a number; write 1 and 0, or a string"
        );
        assert_eq!(
            set(Value::Null),
            ": `value` is null, not a string or a number"
        );
        assert!(set(Value::Number(f64::NAN)).contains("(NaN)"));
        let listed = set(items(vec![text("a")]));
        assert!(
            listed.starts_with(": the last argument is a table, "),
            "{listed}"
        );
        assert_eq!(
            set(table(vec![("timeOut", Value::Integer(1))])),
            " knows no option `timeOut`, did you mean `timeout`?"
        );
        assert_eq!(
            method(&SET, vec![text("k")]).unwrap_err(),
            " takes (key, value, ...), and got 1 of them"
        );
        let error = call(vec![text("CONFIG GET"), text("x")]).unwrap_err();
        assert!(error.contains("has a space"), "{error}");
        assert_eq!(
            call(Vec::new()).unwrap_err(),
            ": the name of the command is missing"
        );
    }

    #[test]
    fn a_pipeline_is_a_list_of_lists() {
        let one = || items(vec![text("INCR"), text("k")]);
        let read = pipeline(vec![
            items(vec![one(), one()]),
            table(vec![("atomic", Value::Boolean(true))]),
        ]);
        let command = vec![b"INCR".to_vec(), b"k".to_vec()];
        let expected = Work::Pipeline {
            commands: vec![command.clone(), command],
            is_atomic: true,
        };
        assert_eq!(read.unwrap().work, expected);
        for (commands, expected) in [
            (text("INCR"), " takes a list of commands such as"),
            (
                items(vec![one(), text("INCR")]),
                ": command 2 is a string, not a list",
            ),
            (
                items(vec![items(vec![text("SET"), Value::Boolean(true)])]),
                ": command 1: argument 2 is a boolean",
            ),
            (
                items(vec![items(Vec::new())]),
                ": command 1: the name of the command is missing",
            ),
        ] {
            let error = pipeline(vec![commands]).unwrap_err();
            assert!(error.starts_with(expected), "{error}");
        }
    }

    #[test]
    fn a_script_has_keys_and_arguments() {
        let read = script(vec![
            text("return 1"),
            items(vec![text("k")]),
            items(vec![Value::Integer(7)]),
            table(vec![("timeout", text("1s"))]),
        ]);
        let read = read.unwrap();
        assert_eq!(read.timeout, Some(Duration::from_secs(1)));
        let expected = Work::Script {
            text: b"return 1".to_vec(),
            keys: vec![b"k".to_vec()],
            arguments: vec![b"7".to_vec()],
        };
        assert_eq!(read.work, expected);
        let error = script(vec![text("return 1"), text("k")]).unwrap_err();
        assert_eq!(error, ": `keys` is a string, not a list of strings");
    }

    #[test]
    fn a_reply_takes_the_form_of_its_method() {
        assert_eq!(
            shaped(Shape::Flag, Value::Integer(0)),
            Value::Boolean(false)
        );
        let flat = items(vec![text("a"), text("1"), text("b"), text("2")]);
        let map = table(vec![("a", text("1")), ("b", text("2"))]);
        assert_eq!(shaped(Shape::Map, flat.clone()), map);
        assert_eq!(shaped(Shape::Plain, flat.clone()), flat);
    }
}
