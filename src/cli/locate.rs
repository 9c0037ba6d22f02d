//! Where the daemon listens that a subcommand wants to talk to.
//!
//! The configuration may be bad just now: that is the very time for `moontide reload` and `moontide status`. So it is
//! not loaded here; only `daemon.runtimeDirectory` is picked out of whatever can be read of it.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

use super::ConfigOption;
use crate::config;

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

    /// The configuration that is meant.
    pub(crate) fn config(&self) -> PathBuf {
        self.config.path()
    }

    /// The directory to ask in.
    ///
    /// # Errors
    ///
    /// When nothing says where the daemon is: a place that was guessed would only be told as wrong.
    pub(crate) fn directory(&self) -> Result<PathBuf> {
        if let Some(directory) = &self.runtime_directory {
            return Ok(directory.clone());
        }
        let path = self.config.path();
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        let environment = |name: &str| std::env::var(name).ok();
        let places = places(&path, &text, &environment);
        let listens = |place: &&PathBuf| place.join(config::SOCKET).exists();
        match places.iter().find(listens) {
            Some(place) => Ok(place.clone()),
            None if !path.exists() => bail!(
                "{} does not exist, which would say where moontide runs; name it by --config, or the runtime directory by \
                 --runtime-directory",
                path.display()
            ),
            None => Ok(places[0].clone()),
        }
    }
}

/// Runtime directories in which the daemon of this configuration may be, the likeliest first; never none.
fn places(path: &Path, text: &str, environment: &dyn Fn(&str) -> Option<String>) -> Vec<PathBuf> {
    if let Some(directory) = config::runtime_directory(path, text, environment) {
        return vec![directory];
    }
    let beside = path.parent().unwrap_or(Path::new(""));
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

#[cfg(test)]
mod tests {
    use super::*;

    /// What is tried for `/etc/moontide/config.toml` with this text.
    #[track_caller]
    fn check(text: &str, runtime_directory: Option<&str>, expected: &[&str]) {
        let given = runtime_directory.map(str::to_owned);
        let environment = |name: &str| (name == "RUNTIME_DIRECTORY").then(|| given.clone())?;
        let expected: Vec<PathBuf> = expected.iter().map(PathBuf::from).collect();
        let path = Path::new("/etc/moontide/config.toml");
        assert_eq!(places(path, text, &environment), expected);
    }

    #[test]
    fn without_a_configuration_no_place_is_guessed() {
        let daemon = Daemon {
            config: ConfigOption {
                config: Some("/no/such/config.toml".into()),
            },
            runtime_directory: None,
        };
        let error = daemon.directory().unwrap_err().to_string();
        assert!(
            error.starts_with("/no/such/config.toml does not exist"),
            "{error}"
        );
    }

    #[test]
    fn what_the_configuration_says_is_all_there_is() {
        check(
            "[daemon]\nruntimeDirectory = '/run/a'",
            Some("/run/b"),
            &["/run/a"],
        );
        check(
            "daemon.runtimeDirectory = 'run'",
            None,
            &["/etc/moontide/run"],
        );
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
            &["/run/b", "/etc/moontide/.moontide", "/run/moontide"],
        );
    }

    #[test]
    fn without_it_the_usual_places_are_tried() {
        check("", None, &["/etc/moontide/.moontide", "/run/moontide"]);
        check(
            "",
            Some("/run/b:/run/c"),
            &["/run/b", "/etc/moontide/.moontide", "/run/moontide"],
        );
        check(
            "[daemon]\nruntimeDirectory = 7",
            Some(""),
            &["/etc/moontide/.moontide", "/run/moontide"],
        );
    }
}
