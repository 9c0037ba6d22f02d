//! `lua.env`: the environment variables that handlers may read. Pure.

use std::collections::BTreeSet;

/// The variables that handlers may read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct EnvNames {
    /// As they are written: names, and beginnings of names with a `*` behind them.
    pub(crate) entries: Vec<String>,
    /// The variables that the configuration itself refers to. Many are secrets, so a beginning does not cover them.
    referred: BTreeSet<String>,
}

impl EnvNames {
    /// An error has the entry that is wrong, and the reason.
    pub(super) fn of(entries: &[String], referred: BTreeSet<String>) -> Result<Self, String> {
        match entries.iter().find_map(|entry| reason(entry)) {
            Some(reason) => Err(reason),
            None => Ok(Self {
                entries: entries.to_vec(),
                referred,
            }),
        }
    }

    #[cfg(test)]
    pub(crate) fn parsed(entries: &[&str]) -> Self {
        let entries: Vec<String> = entries.iter().map(|entry| (*entry).to_owned()).collect();
        Self::of(&entries, BTreeSet::new()).expect("the entries are right")
    }

    pub(crate) fn allows(&self, name: &str) -> bool {
        self.entries
            .iter()
            .any(|entry| match entry.strip_suffix('*') {
                Some(start) => name.starts_with(start) && !self.referred.contains(name),
                None => name == entry,
            })
    }

    /// Whether a beginning covers the name, which the configuration itself refers to.
    pub(crate) fn hides(&self, name: &str) -> bool {
        self.referred.contains(name) && !self.allows(name)
    }
}

/// Why an entry is wrong.
fn reason(entry: &str) -> Option<String> {
    let name = entry.strip_suffix('*').unwrap_or(entry);
    if entry == "*" {
        return Some(
            "`env` has `*`, which would cover every variable, also secrets; write names such as \"REGION\" and beginnings such as \"APP_*\""
                .to_owned(),
        );
    }
    let begins = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    let is_name = begins && name.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'_');
    (!is_name).then(|| {
        format!(
            "`env` has `{}`, which is no name of a variable; write names such as \"REGION\" and beginnings such as \"APP_*\"",
            entry.escape_debug()
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_beginnings_are_allowed() {
        let entries = ["REGION", "APP_*", "DB_URL"].map(str::to_owned);
        let referred = ["APP_PASSWORD", "DB_URL", "OTHER"].map(str::to_owned);
        let names = EnvNames::of(&entries, referred.into()).unwrap();
        for name in ["REGION", "APP_", "APP_MODE", "DB_URL"] {
            assert!(names.allows(name), "{name}");
        }
        for name in ["", "REGIONS", "region", "APP", "APP_PASSWORD", "PATH"] {
            assert!(!names.allows(name), "{name}");
        }
        assert!(names.hides("APP_PASSWORD"));
        assert!(!names.hides("DB_URL") && !names.hides("PATH"));
    }

    #[test]
    fn what_is_no_name_is_refused() {
        for entry in ["*", "", "A B", "1A", "A*B", "**", "A=", "É"] {
            let error = EnvNames::of(&[entry.to_owned()], BTreeSet::new()).unwrap_err();
            assert!(error.starts_with("`env` has `"), "{error}");
        }
    }
}
