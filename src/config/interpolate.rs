//! `${NAME}`, `${NAME:-default}`, `${file:/path}` and `${credential:name}` in string values; `$${` is a literal `${`.
//!
//! It runs on the parsed tree, so no value can change the shape of the file. What came from files and credentials is
//! told to the report, which hides it everywhere.

use std::borrow::Cow;
use std::path::Path;

use toml::Spanned;
use toml::de::{DeArray, DeValue};

use super::error::{Report, words};
use super::tree::Tree;
use crate::files::regular_file;

/// Where the values of references come from.
pub(super) struct Lookup<'a> {
    pub(super) environment: &'a dyn Fn(&str) -> Option<String>,
    /// The folder of the configuration, for relative paths.
    pub(super) folder: &'a Path,
}

/// Replaces every reference below a top-level key; a value whose reference cannot be resolved is reported and left out.
pub(super) fn entry(tree: &mut Tree<'_>, key: &str, lookup: &Lookup<'_>, report: &mut Report<'_>) {
    let is_good = tree
        .get_mut(key)
        .is_none_or(|entry| value(entry, key, lookup, report));
    if !is_good {
        tree.remove(key);
    }
}

fn tree(tree: &mut Tree<'_>, lookup: &Lookup<'_>, report: &mut Report<'_>) {
    let mut bad = Vec::new();
    for (key, entry) in tree.iter_mut() {
        let key = key.get_ref().as_ref();
        if !value(entry, key, lookup, report) {
            bad.push(key.to_owned());
        }
    }
    for key in bad {
        tree.remove(key.as_str());
    }
}

fn value(
    entry: &mut Spanned<DeValue<'_>>,
    key: &str,
    lookup: &Lookup<'_>,
    report: &mut Report<'_>,
) -> bool {
    let span = entry.span();
    match entry.get_mut() {
        DeValue::String(text) => match expand(text, lookup) {
            Ok(Expanded {
                text: Some(expanded),
                secrets,
            }) => {
                for piece in &secrets {
                    report.secret(piece);
                }
                *text = Cow::Owned(expanded);
            }
            Ok(Expanded { text: None, .. }) => {}
            Err(message) => {
                report.error(Some(span), format!("`{key}`: {message}"));
                report.leave_out(key);
                return false;
            }
        },
        DeValue::Array(array) => {
            for mut item in std::mem::replace(array, DeArray::new()) {
                if value(&mut item, key, lookup, report) {
                    array.push(item);
                }
            }
        }
        DeValue::Table(table) => self::tree(table, lookup, report),
        _ => {}
    }
    true
}

#[derive(Debug, Default, PartialEq)]
struct Expanded {
    /// Absent: the string has no reference.
    text: Option<String>,
    secrets: Vec<String>,
}

fn expand(text: &str, lookup: &Lookup<'_>) -> Result<Expanded, String> {
    if !text.contains("${") {
        return Ok(Expanded::default());
    }
    let mut result = String::new();
    let mut secrets = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        if rest[..at].ends_with('$') {
            result.push_str(&rest[..at - 1]);
            result.push_str("${");
            rest = &rest[at + 2..];
            continue;
        }
        result.push_str(&rest[..at]);
        let inner = &rest[at + 2..];
        let end = inner
            .find('}')
            .ok_or("`${` without its `}`; write `$${` for a literal `${`")?;
        let (piece, secret) = resolve(&inner[..end], lookup)?;
        result.push_str(&piece);
        if secret {
            secrets.push(piece);
        }
        rest = &inner[end + 1..];
    }
    result.push_str(rest);
    Ok(Expanded {
        text: Some(result),
        secrets,
    })
}

/// The value of one reference, and whether it is secret.
fn resolve(reference: &str, lookup: &Lookup<'_>) -> Result<(String, bool), String> {
    if let Some(path) = reference.strip_prefix("file:") {
        return Ok((read(&lookup.folder.join(path), reference)?, true));
    }
    if let Some(name) = reference.strip_prefix("credential:") {
        let folder = (lookup.environment)("CREDENTIALS_DIRECTORY")
            .ok_or_else(|| format!("`${{{reference}}}` needs $CREDENTIALS_DIRECTORY, which systemd sets for LoadCredential="))?;
        if name.is_empty() || name.contains('/') || name == ".." {
            return Err(format!(
                "`${{{reference}}}` is not the name of a credential"
            ));
        }
        return Ok((read(&Path::new(&folder).join(name), reference)?, true));
    }
    let (name, default) = match reference.split_once(":-") {
        Some((name, default)) => (name, Some(default)),
        None => (reference, None),
    };
    let starts = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    if !starts || !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
        return Err(format!(
            "`${{{reference}}}` is neither ${{NAME}}, ${{NAME:-default}}, ${{file:/path}} nor ${{credential:name}}"
        ));
    }
    if default.is_some_and(|default| default.contains("${")) {
        return Err(format!(
            "`${{{reference}}}` has a reference in its default, which is not allowed"
        ));
    }
    let value = (lookup.environment)(name);
    match (value, default) {
        (Some(value), None) => Ok((value, false)),
        (Some(value), Some(_)) if !value.is_empty() => Ok((value, false)),
        (_, Some(default)) => Ok((default.to_owned(), false)),
        (None, None) => Err(format!(
            "the environment variable `{name}` is not set; set it, or write `${{{name}:-default}}`"
        )),
    }
}

/// A file's text without the line end that editors put there.
fn read(path: &Path, reference: &str) -> Result<String, String> {
    let text = regular_file::read_to_string(path)
        .map_err(|error| format!("`${{{reference}}}`: {}", words(&error)))?;
    let text = text.strip_suffix('\n').unwrap_or(&text);
    Ok(text.strip_suffix('\r').unwrap_or(text).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: Result<&str, &str>) {
        let environment = |name: &str| match name {
            "SET" => Some("value".to_owned()),
            "EMPTY" => Some(String::new()),
            _ => None,
        };
        let lookup = Lookup {
            environment: &environment,
            folder: Path::new("/"),
        };
        let found =
            expand(text, &lookup).map(|expanded| expanded.text.unwrap_or_else(|| text.to_owned()));
        assert_eq!(found.as_deref().map_err(String::as_str), expected);
    }

    #[test]
    fn a_variable_is_replaced() {
        check("a ${SET} b ${SET}", Ok("a value b value"));
        check("${EMPTY}", Ok(""));
    }

    #[test]
    fn a_default_counts_for_what_is_unset_or_empty() {
        check("${UNSET:-x:9092}", Ok("x:9092"));
        check("${EMPTY:-x}", Ok("x"));
        check("${SET:-x}", Ok("value"));
        check("${UNSET:-}", Ok(""));
    }

    #[test]
    fn a_doubled_dollar_is_literal() {
        check("$${SET} $ {", Ok("${SET} $ {"));
        check("^a{2}$", Ok("^a{2}$"));
    }

    #[test]
    fn a_missing_variable_is_an_error() {
        check(
            "${UNSET}",
            Err(
                "the environment variable `UNSET` is not set; set it, or write `${UNSET:-default}`",
            ),
        );
        check(
            "${SET",
            Err("`${` without its `}`; write `$${` for a literal `${`"),
        );
        check(
            "${credential:x}",
            Err(
                "`${credential:x}` needs $CREDENTIALS_DIRECTORY, which systemd sets for LoadCredential=",
            ),
        );
    }

    #[test]
    fn a_file_is_secret_and_loses_its_last_line_end() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("password"), "secret\n").unwrap();
        let lookup = Lookup {
            environment: &|_| None,
            folder: folder.path(),
        };
        let found = expand("x${file:password}", &lookup).unwrap();
        assert_eq!(
            found,
            Expanded {
                text: Some("xsecret".into()),
                secrets: vec!["secret".into()]
            }
        );
    }
}
