//! Where the daemon listens that a subcommand wants to talk to.
//!
//! The configuration may be bad just now: that is the very time for `moontide reload` and `moontide status`. So it is
//! not loaded here; only `daemon.runtimeDirectory` is picked out of whatever can be read of it.

use std::path::{Path, PathBuf};

use toml::de::DeTable;

use super::ConfigOption;

const RUNTIME_DIRECTORY_HELP: &str = "The daemon's runtime directory [default: daemon.runtimeDirectory of the \
    configuration, else $RUNTIME_DIRECTORY, else .moontide beside the configuration or /run/moontide]";

/// Options of the subcommands that talk to a daemon.
#[derive(Debug, clap::Args)]
pub(crate) struct Daemon {
    #[command(flatten)]
    config: ConfigOption,
    #[arg(long, value_name = "DIR", help = RUNTIME_DIRECTORY_HELP)]
    runtime_directory: Option<PathBuf>,
}

impl Daemon {
    /// The daemon of a runtime directory.
    #[cfg(test)]
    pub(crate) fn of(directory: &Path) -> Self {
        Self {
            config: ConfigOption { config: None },
            runtime_directory: Some(directory.to_owned()),
        }
    }

    /// The directory to ask in.
    pub(crate) fn directory(&self) -> PathBuf {
        if let Some(directory) = &self.runtime_directory {
            return directory.clone();
        }
        let config = self.config.path();
        let text = std::fs::read_to_string(&config).unwrap_or_default();
        let environment = |name: &str| std::env::var(name).ok();
        let places = places(&config, &text, &environment);
        let listens = |place: &&PathBuf| place.join(crate::control::SOCKET).exists();
        places.iter().find(listens).unwrap_or(&places[0]).clone()
    }
}

/// Runtime directories in which the daemon of this configuration may be, the likeliest first; never none.
fn places(config: &Path, text: &str, environment: &dyn Fn(&str) -> Option<String>) -> Vec<PathBuf> {
    let beside = config.parent().unwrap_or(Path::new(""));
    if let Some(directory) = configured(text).and_then(|directory| expand(&directory, environment))
    {
        return vec![beside.join(directory)];
    }
    // systemd separates several by colons; ours is the first.
    let given = environment("RUNTIME_DIRECTORY").unwrap_or_default();
    let given = given
        .split(':')
        .next()
        .map(PathBuf::from)
        .filter(|directory| directory.is_absolute());
    // The last is where the daemon is when systemd runs it, which gives that variable to nobody but the daemon.
    given
        .into_iter()
        .chain([beside.join(".moontide"), PathBuf::from("/run/moontide")])
        .collect()
}

/// `daemon.runtimeDirectory` as written, also of a file that has errors elsewhere.
fn configured(text: &str) -> Option<String> {
    let (table, _errors) = DeTable::parse_recoverable(text);
    let daemon = table.get_ref().get("daemon")?.get_ref();
    Some(
        daemon
            .as_table()?
            .get("runtimeDirectory")?
            .get_ref()
            .as_str()?
            .to_owned(),
    )
}

/// Replaces `${NAME}` and `${NAME:-default}`; `None` when that does not do.
fn expand(text: &str, environment: &dyn Fn(&str) -> Option<String>) -> Option<String> {
    let Some((before, rest)) = text.split_once("${") else {
        return Some(text.to_owned());
    };
    let (reference, after) = rest.split_once('}')?;
    let (name, default) = match reference.split_once(":-") {
        Some((name, default)) => (name, Some(default)),
        None => (reference, None),
    };
    let value = environment(name).filter(|value| default.is_none() || !value.is_empty());
    let value = value.or_else(|| default.map(str::to_owned))?;
    Some(format!("{before}{value}{}", expand(after, environment)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, runtime_directory: Option<&str>, expected: &[&str]) {
        let environment = |name: &str| {
            (name == "RUNTIME_DIRECTORY").then(|| runtime_directory.map(str::to_owned))?
        };
        let expected: Vec<PathBuf> = expected.iter().map(PathBuf::from).collect();
        assert_eq!(
            places(Path::new("etc/config.toml"), text, &environment),
            expected
        );
    }

    #[test]
    fn what_the_configuration_says_is_all_there_is() {
        check(
            "[daemon]\nruntimeDirectory = '/run/a'",
            Some("/run/b"),
            &["/run/a"],
        );
        check("daemon.runtimeDirectory = 'run'", None, &["etc/run"]);
    }

    #[test]
    fn a_bad_configuration_says_it_as_well() {
        check(
            "[daemon]\nruntimeDirectory = '/run/a'\n[[listeners]\ntopic = ",
            None,
            &["/run/a"],
        );
        check(
            "topic = = 1\n[daemon]\ndrainDeadline = '20 moons'\nruntimeDirectory = '/run/a'",
            None,
            &["/run/a"],
        );
    }

    #[test]
    fn references_to_the_environment_are_followed() {
        check(
            "daemon.runtimeDirectory = '${RUNTIME_DIRECTORY}/x'",
            Some("/run/b"),
            &["/run/b/x"],
        );
        check(
            "daemon.runtimeDirectory = '${OTHER:-/run/c}'",
            Some("/run/b"),
            &["/run/c"],
        );
        check(
            "daemon.runtimeDirectory = '${OTHER}'",
            Some("/run/b"),
            &["/run/b", "etc/.moontide", "/run/moontide"],
        );
    }

    #[test]
    fn without_it_the_usual_places_are_tried() {
        check("", None, &["etc/.moontide", "/run/moontide"]);
        check(
            "",
            Some("/run/b:/run/c"),
            &["/run/b", "etc/.moontide", "/run/moontide"],
        );
        check(
            "[daemon]\nruntimeDirectory = 7",
            Some(""),
            &["etc/.moontide", "/run/moontide"],
        );
    }
}
