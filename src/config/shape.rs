//! Checks names and types against the JSON Schema of `file`, all of them at once.
//!
//! A wrong value is reported and removed from the tree, so that the rules can check the rest. Names come from the schema
//! alone: a key that is added to a type of `file` is known here.

use serde_json::Value as Json;
use toml::Spanned;
use toml::de::{DeArray, DeInteger, DeValue};

use super::error::Report;
use super::file::File;
use super::tree::Tree;
use super::unit::{Millis, Size};
use super::{passthrough, refused};
use crate::kafka::property::{self, Role};
use crate::nearest::nearest;

/// Where a key that stands in the wrong table belongs, by the name of the table's type.
const TABLES: [(&str, &str); 23] = [
    ("Client", "`[kafkaConfig]`"),
    ("Admin", "`[kafka.admin]`"),
    ("Consumer", "`[consumerConfig]`"),
    ("Producer", "`[producerConfig]`"),
    ("Policies", "`[[listeners]]` or `[listenerDefaults]`"),
    ("Listener", "`[[listeners]]`"),
    ("Subscription", "`subscription` of a listener"),
    ("RunConfig", "`runConfig` of a listener"),
    ("Retry", "`retry` of a listener"),
    ("DeadLetter", "`deadLetter` of a listener"),
    ("BreakerTable", "`breaker` of a listener"),
    ("Limits", "`limits` of a listener"),
    ("RateLimitTable", "`rateLimit` of a listener"),
    ("Lua", "`[lua]`"),
    ("Log", "`[log]`"),
    ("Daemon", "`[daemon]`"),
    ("Http", "`[http]`"),
    ("HttpClient", "`[http.client]`"),
    (
        "ClientCertificate",
        "a certificate of `[http.client.certificates]`",
    ),
    ("Redis", "`[redis.NAME]`"),
    ("Kv", "`[kv.NAME]`"),
    ("Sql", "`[sql.NAME]`"),
    ("TlsTable", "`tls` of `[redis.NAME]` or `[sql.NAME]`"),
];

/// The JSON Schema of the configuration.
pub(crate) fn schema() -> Json {
    schemars::schema_for!(File).to_value()
}

/// Reports every unknown key and every value of a wrong type.
pub(super) fn check(tree: &mut Tree<'_>, report: &mut Report<'_>) {
    let schema = schema();
    let mut walk = Walk {
        root: &schema,
        path: Vec::new(),
        report,
    };
    walk.table(tree, &schema, "File");
}

/// Hides the values of sensitive keys in every excerpt, the misspelt ones too.
pub(super) fn mask(tree: &Tree<'_>, report: &mut Report<'_>) {
    for (key, value) in tree {
        let name = key.get_ref().to_lowercase();
        let known = ["password", "passphrase", "clientsecret"];
        let words = ["pass", "pwd", "secret", "token", "jaas", "credential"];
        let sensitive = name == "key"
            || words.iter().any(|word| name.contains(word)) && name != "tokenendpointurl"
            || nearest(&name, known.into_iter()).is_some()
            || property::is_sensitive(&name);
        if sensitive && !value.get_ref().is_table() {
            report.mask(value.span());
        } else {
            mask_value(value.get_ref(), report);
            report.mask_user(value.span());
        }
    }
}

fn mask_value(value: &DeValue<'_>, report: &mut Report<'_>) {
    match value {
        DeValue::Table(table) => mask(table, report),
        DeValue::Array(array) => {
            for value in array {
                mask_value(value.get_ref(), report);
                report.mask_user(value.span());
            }
        }
        _ => {}
    }
}

/// Hides whatever stands below a key that is not known: it may be meant for a secret.
fn mask_all(value: &Spanned<DeValue<'_>>, report: &mut Report<'_>) {
    match value.get_ref() {
        DeValue::Table(table) => table.iter().for_each(|(_, value)| mask_all(value, report)),
        DeValue::Array(array) => array.iter().for_each(|value| mask_all(value, report)),
        _ => report.mask(value.span()),
    }
}

struct Walk<'w, 'r> {
    root: &'w Json,
    path: Vec<String>,
    report: &'w mut Report<'r>,
}

impl<'w> Walk<'w, '_> {
    fn table(&mut self, table: &mut Tree<'_>, schema: &'w Json, scope: &str) {
        let properties = schema["properties"].as_object();
        let any = Some(&schema["additionalProperties"]).filter(|any| any.is_object());
        let mut bad = Vec::new();
        for (key, value) in table.iter_mut() {
            let name = key.get_ref().as_ref();
            let inner = properties
                .and_then(|properties| properties.get(name))
                .or(any);
            self.path.push(name.to_owned());
            let good = match inner {
                Some(inner) => self.value(value, inner),
                None if refused::is_harmless(name, value.get_ref()) => false,
                None => {
                    mask_all(value, self.report);
                    self.unknown(
                        key,
                        value,
                        properties
                            .into_iter()
                            .flatten()
                            .map(|(name, _)| name.as_str()),
                        scope,
                    );
                    false
                }
            };
            self.path.pop();
            if !good {
                self.report.leave_out(name);
                bad.push(name.to_owned());
            }
        }
        for name in bad {
            table.remove(name.as_str());
        }
    }

    fn unknown(
        &mut self,
        key: &Spanned<std::borrow::Cow<'_, str>>,
        value: &Spanned<DeValue<'_>>,
        names: impl Iterator<Item = &'w str>,
        scope: &str,
    ) {
        let (name, span) = (key.get_ref().as_ref(), key.span());
        if self.report.is_full() {
            // The nearest name takes its time, and nobody sees it.
            self.report
                .error(Some(span), format!("unknown key `{name}`"));
            return;
        }
        let message = if let Some(instead) = refused::key(scope, name) {
            format!("{}: {instead}", self.written_path())
        } else if let Some(instead) = misplaced(scope, &dotted(name, value.get_ref())) {
            let (_, table) = written_path(&self.path);
            format!("unknown key in `{}`: {instead}", table.unwrap_or_default())
        } else {
            let (key, table) = written_path(&self.path);
            let table = table.map_or_else(
                || " at the top level".to_owned(),
                |table| format!(" in `{table}`"),
            );
            let nearest = nearest(name, names);
            if let Some(nearest) = nearest {
                self.report.leave_out(nearest);
            }
            let meant = match (nearest, self.home(name)) {
                (Some(nearest), None) => format!(", did you mean `{nearest}`?"),
                (Some(nearest), Some(home)) => {
                    format!(", did you mean `{nearest}`? `{name}` belongs in {home}")
                }
                (None, Some(home)) => format!("; it belongs in {home}"),
                (None, None) => String::new(),
            };
            format!("unknown key `{key}`{table}{meant}")
        };
        self.report.error(Some(span), message);
    }

    /// The table that has a key of this name.
    fn home(&self, name: &str) -> Option<&'static str> {
        let has = |of: &&(&str, &str)| !self.root["$defs"][of.0]["properties"][name].is_null();
        TABLES.iter().find(has).map(|(_, home)| *home)
    }

    fn value(&mut self, value: &mut Spanned<DeValue<'_>>, schema: &'w Json) -> bool {
        let (schema, scope) = self.resolve(schema);
        if let Some(branches) = schema["anyOf"].as_array() {
            let kind = kind(value.get_ref());
            let fitting = branches.iter().find(|branch| self.fits(branch, kind));
            return match fitting {
                Some(branch) => self.value(value, branch),
                None => self.wrong_type(value, schema),
            };
        }
        if !accepts(schema, kind(value.get_ref())) {
            return self.wrong_type(value, schema);
        }
        let span = value.span();
        match value.get_mut() {
            DeValue::Table(table) => {
                self.table(table, schema, scope.unwrap_or_default());
                true
            }
            DeValue::Array(array) => {
                for mut item in std::mem::replace(array, DeArray::new()) {
                    self.path.push(String::new());
                    let good = self.value(&mut item, &schema["items"]);
                    self.path.pop();
                    if good {
                        array.push(item);
                    } else if let Some(key) = self.path.last() {
                        self.report.leave_out(key);
                    }
                }
                true
            }
            DeValue::String(text) => {
                // Brokers and other clients write it in capitals.
                if self.path.last().is_some_and(|key| key == "mechanism") {
                    text.to_mut().make_ascii_lowercase();
                }
                self.text(text, &span, schema)
            }
            DeValue::Float(number) if schema["format"] == "duration-ms" => {
                let text = number.as_str();
                let wrong = Millis::of_number(text.parse().unwrap_or(f64::NAN), text).err();
                self.complain(&span, wrong)
            }
            DeValue::Integer(number) => {
                let wrong = out_of_range(number, schema);
                self.complain(&span, wrong)
            }
            _ => true,
        }
    }

    fn text(&mut self, text: &str, span: &std::ops::Range<usize>, schema: &Json) -> bool {
        let wrong = match schema["format"].as_str() {
            Some("duration-ms") => Millis::parse(text).err(),
            Some("size-bytes") => Size::parse(text).err(),
            _ => {
                let allowed = constants(schema);
                if allowed.is_empty() || allowed.contains(&text) {
                    None
                } else if let Some(instead) =
                    refused::value(self.path.last().map_or("", String::as_str), text)
                {
                    Some(format!("is \"{text}\": {instead}"))
                } else {
                    Some(format!(
                        "is \"{text}\", not one of \"{}\"",
                        allowed.join("\", \"")
                    ))
                }
            }
        };
        self.complain(span, wrong)
    }

    /// Reports an error of the current value, and tells whether it has none.
    fn complain(&mut self, span: &std::ops::Range<usize>, wrong: Option<String>) -> bool {
        let is_good = wrong.is_none();
        if let Some(wrong) = wrong {
            self.report.error(
                Some(span.clone()),
                format!("{} {wrong}", self.written_path()),
            );
        }
        is_good
    }

    fn wrong_type(&mut self, value: &Spanned<DeValue<'_>>, schema: &Json) -> bool {
        let (found, expected) = (describe_kind(kind(value.get_ref())), self.describe(schema));
        let path: Vec<&str> = self.path.iter().map(String::as_str).collect();
        let instead = match path[..] {
            ["listeners"] => Some("write `[[listeners]]`".to_owned()),
            // Its keys, where a name is expected.
            ["redis", _] => {
                Some("write it in a table with a name, such as `[redis.cache]`".to_owned())
            }
            ["kv", _] => {
                Some("write it in a table with a name, such as `[kv.sessions]`".to_owned())
            }
            ["sql", _] => Some("write it in a table with a name, such as `[sql.main]`".to_owned()),
            // An array of tables, where there is one table.
            [table] if value.get_ref().is_array() => Some(format!("write `[{table}]`")),
            [.., key] => refused::form(key).map(|form| format!("write `{form}`")),
            [] => None,
        };
        let instead = instead.map_or_else(String::new, |instead| format!("; {instead}"));
        self.report.error(
            Some(value.span()),
            format!(
                "{} is {found}, not {expected}{instead}",
                self.written_path()
            ),
        );
        false
    }

    fn fits(&self, schema: &Json, kind: &str) -> bool {
        let (schema, _) = self.resolve(schema);
        match schema["anyOf"].as_array() {
            Some(branches) => branches.iter().any(|branch| self.fits(branch, kind)),
            None => accepts(schema, kind),
        }
    }

    /// Follows references; the last one's name is the table's scope.
    fn resolve<'s>(&self, mut schema: &'s Json) -> (&'s Json, Option<&'s str>)
    where
        'w: 's,
    {
        let mut scope = None;
        while let Some(name) = schema["$ref"]
            .as_str()
            .and_then(|reference| reference.strip_prefix("#/$defs/"))
        {
            scope = Some(name);
            schema = &self.root["$defs"][name];
        }
        (schema, scope)
    }

    fn describe(&self, schema: &Json) -> String {
        let (schema, _) = self.resolve(schema);
        let allowed = constants(schema);
        if !allowed.is_empty() {
            return format!("one of \"{}\"", allowed.join("\", \""));
        }
        let mut words: Vec<String> = match schema["anyOf"].as_array() {
            Some(branches) => branches
                .iter()
                .map(|branch| self.describe(branch))
                .filter(|word| !word.is_empty())
                .collect(),
            None => match schema["format"].as_str() {
                Some("duration-ms") => {
                    vec!["milliseconds".into(), "a string such as \"5s\"".into()]
                }
                Some("size-bytes") => vec!["bytes".into(), "a string such as \"64KiB\"".into()],
                _ => types(schema)
                    .map(|name| describe_kind(name).to_owned())
                    .filter(|word| !word.is_empty())
                    .collect(),
            },
        };
        words.dedup();
        words.join(" or ")
    }

    /// The current key, as the user sees it.
    fn written_path(&self) -> String {
        match written_path(&self.path) {
            (key, Some(table)) if !key.is_empty() => format!("`{key}` in `{table}`"),
            (_, Some(table)) => format!("`{table}`"),
            (key, None) => format!("`{key}`"),
        }
    }
}

/// The hint for a property of librdkafka in a table of kafkajs' keys.
fn misplaced(scope: &str, property: &str) -> Option<String> {
    let role = match scope {
        "Client" | "Consumer" => Role::Consumer,
        "Producer" => Role::Producer,
        _ => return None,
    };
    passthrough::misplaced(role, property)
}

/// The name as its user sees it: `group.id = "a"` is a table `group` for TOML.
fn dotted(name: &str, value: &DeValue<'_>) -> String {
    let inner = value.as_table().and_then(|table| table.iter().next());
    match inner {
        Some((key, value)) => format!("{name}.{}", dotted(key.get_ref(), value.get_ref())),
        None => name.to_owned(),
    }
}

/// Splits a path into the key and the table that stands in brackets; an empty step is an index.
fn written_path(path: &[String]) -> (String, Option<String>) {
    let (table, rest) = match path {
        [list, index, rest @ ..] if list == "listeners" && index.is_empty() => {
            (Some("[[listeners]]".to_owned()), rest)
        }
        [outer, name, rest @ ..]
            if matches!(
                outer.as_str(),
                "consumers" | "producers" | "redis" | "kv" | "sql"
            ) || outer == "http" && name == "client" && !rest.is_empty() =>
        {
            (Some(format!("[{outer}.{name}]")), rest)
        }
        [table, rest @ ..] if !rest.is_empty() => (Some(format!("[{table}]")), rest),
        _ => (None, path),
    };
    let rest: Vec<&str> = rest
        .iter()
        .map(String::as_str)
        .filter(|step| !step.is_empty())
        .collect();
    (rest.join("."), table)
}

fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "string",
        DeValue::Integer(_) => "integer",
        DeValue::Float(_) => "number",
        DeValue::Boolean(_) => "boolean",
        DeValue::Datetime(_) => "datetime",
        DeValue::Array(_) => "array",
        DeValue::Table(_) => "object",
    }
}

fn describe_kind(kind: &str) -> &'static str {
    match kind {
        "string" => "a string",
        "integer" => "a whole number",
        "number" => "a number",
        "boolean" => "true or false",
        "datetime" => "a date",
        "array" => "an array",
        "object" => "a table",
        _ => "",
    }
}

fn out_of_range(number: &DeInteger<'_>, schema: &Json) -> Option<String> {
    let most = if schema["format"] == "uint32" {
        i64::from(u32::MAX)
    } else {
        i64::MAX
    };
    let least = schema["minimum"].as_i64().unwrap_or(i64::MIN);
    match i64::from_str_radix(number.as_str(), number.radix()) {
        Ok(number) if number < least => Some(format!("is {number}, less than {least}")),
        Ok(number) if number <= most || least == i64::MIN => None,
        _ => Some(format!("is {number}, more than {most}")),
    }
}

fn types(schema: &Json) -> impl Iterator<Item = &str> {
    let one = schema["type"].as_str();
    let many = schema["type"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Json::as_str);
    let constant = (one.is_none() && !constants(schema).is_empty()).then_some("string");
    one.into_iter().chain(many).chain(constant)
}

fn accepts(schema: &Json, kind: &str) -> bool {
    types(schema).any(|name| name == kind || (name == "number" && kind == "integer"))
}

/// The words that are allowed, when there is a list of them.
fn constants(schema: &Json) -> Vec<&str> {
    let words = schema["enum"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Json::as_str);
    let branches = schema["oneOf"].as_array().into_iter().flatten();
    words
        .chain(branches.filter_map(|branch| branch["const"].as_str()))
        .collect()
}
