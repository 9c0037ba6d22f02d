//! The search for the runtime directory of the daemon that a subcommand talks to.
//!
//! The configuration may be bad at that time, and exactly then `moontide reload` and `moontide status` are needed. So
//! it is not loaded here; only `daemon.runtimeDirectory` is read from its parsable part. That key may have been
//! edited under a running daemon, which stays in its directory until a restart: then the usual directories are
//! searched as well.

use std::io::ErrorKind;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use super::ConfigOption;
use super::terminal::{complain, harmless};
use crate::service::control;
use crate::telemetry::status::{Answer, Identity, Request, Response};
use crate::{config, files::own_folder};

/// The limit for a daemon, possibly another one, to report its configuration.
const DEADLINE: Duration = Duration::from_secs(5);

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

    /// The path of the configuration.
    pub(crate) fn config(&self) -> PathBuf {
        self.config.path()
    }

    /// The directory to ask in.
    ///
    /// # Errors
    ///
    /// When nothing says where the daemon is: a place that was guessed would only be told as wrong. When it is in none of
    /// several places.
    pub(crate) fn directory(&self) -> Result<PathBuf> {
        match self.look()? {
            Looked::Found(directory) => Ok(directory),
            Looked::Nowhere(mut tried) if tried.len() == 1 => Ok(tried.remove(0)),
            Looked::Nowhere(tried) => {
                let tried: Vec<String> = tried
                    .iter()
                    .map(|place| format!("`{}`", place.display()))
                    .collect();
                bail!(
                    "no daemon runs with runtime directory {}; start it with `moontide run`, or name the directory by \
                     --runtime-directory",
                    tried.join(" or ")
                )
            }
        }
    }

    /// Asks the daemon; `answer` takes the answer out of a response to this request.
    ///
    /// # Errors
    ///
    /// When it is not found, does not answer in time, or answers with an error.
    pub(crate) fn ask<T>(
        &self,
        request: &Request,
        deadline: Duration,
        answer: impl FnOnce(Response) -> Option<T>,
    ) -> Result<T> {
        let Answer {
            daemon: identity,
            response,
        } = control::ask(&self.directory()?, request, deadline)?;
        self.say_who(&identity, request);
        match response {
            Response::Error(error) => bail!("{error}"),
            response => answer(response).context("the daemon answered another request"),
        }
    }

    /// Says which daemon answers: another one than this folder's may be the only one that runs. A status has that in
    /// its first lines.
    fn say_who(&self, identity: &Identity, request: &Request) {
        let path = self.config.path();
        let is_named = self.runtime_directory.is_some();
        let is_other = !is_named && path.exists() && !is_same_file(&path, &identity.config);
        if is_other || !matches!(request, Request::Status) {
            let Identity { pid, config } = identity;
            let config = harmless(config);
            let not = if is_other {
                format!(", not {}", path.display())
            } else {
                String::new()
            };
            complain(format_args!(
                "pid {pid} answers, with configuration {config}{not}"
            ));
        }
    }

    /// As `directory`, or where a daemon would be.
    pub(crate) fn likely_directory(&self) -> Result<PathBuf> {
        match self.look()? {
            Looked::Found(directory) => Ok(directory),
            Looked::Nowhere(mut tried) => Ok(tried.remove(0)),
        }
    }

    fn look(&self) -> Result<Looked> {
        if let Some(directory) = &self.runtime_directory {
            return Ok(Looked::Nowhere(vec![directory.clone()]));
        }
        let path = self.config.path();
        let text = crate::files::regular_file::read_to_string(&path).unwrap_or_default();
        let environment = |name: &str| std::env::var(name).ok();
        let Candidates { own, usual } = candidates(&path, &text, &environment);
        let found = own
            .iter()
            .find(|place| listens(place))
            .or_else(|| usual.iter().find(|place| is_of(place, &path)));
        match found {
            Some(place) => Ok(Looked::Found(place.clone())),
            None if !path.exists() => bail!(
                "{} does not exist, and it names the runtime directory of the daemon; pass --config, or --runtime-directory",
                path.display()
            ),
            None => Ok(Looked::Nowhere(own.into_iter().chain(usual).collect())),
        }
    }
}

enum Looked {
    Found(PathBuf),
    /// The searched directories, the likeliest first; never empty.
    Nowhere(Vec<PathBuf>),
}

/// Runtime directories in which the daemon of a configuration may be.
#[derive(Debug, PartialEq, Eq)]
struct Candidates {
    /// The likeliest first; never empty.
    own: Vec<PathBuf>,
    /// Directories from before the configuration named another one; a daemon there may belong to another
    /// configuration.
    usual: Vec<PathBuf>,
}

fn candidates(path: &Path, text: &str, environment: &dyn Fn(&str) -> Option<String>) -> Candidates {
    let beside = path.parent().unwrap_or(Path::new(""));
    // systemd separates several directories by colons; the first is Moontide's.
    let given = environment("RUNTIME_DIRECTORY").unwrap_or_default();
    let given = given
        .split(':')
        .next()
        .map(PathBuf::from)
        .filter(|directory| directory.is_absolute());
    // The last is the directory of a daemon under systemd, which sets that variable only for the daemon.
    let usual: Vec<PathBuf> = given
        .into_iter()
        .chain([
            beside.join(own_folder::BESIDE),
            PathBuf::from("/run/moontide"),
        ])
        .collect();
    match config::Written::parse(path, text, environment).runtime_directory() {
        Some(directory) => Candidates {
            usual: usual
                .into_iter()
                .filter(|place| *place != directory)
                .collect(),
            own: vec![directory],
        },
        None => Candidates {
            own: usual,
            usual: Vec::new(),
        },
    }
}

/// The leftover socket of a killed daemon does not count; a socket without permission for this user does.
fn listens(place: &Path) -> bool {
    match UnixStream::connect(place.join(config::SOCKET)) {
        Ok(_) => true,
        Err(error) => error.kind() == ErrorKind::PermissionDenied,
    }
}

/// Whether the daemon in this directory runs this configuration.
fn is_of(place: &Path, config: &Path) -> bool {
    listens(place)
        && control::ask(place, &Request::Status, DEADLINE)
            .is_ok_and(|answer| is_same_file(config, &answer.daemon.config))
}

fn is_same_file(one: &Path, other: &str) -> bool {
    match (std::fs::canonicalize(one), std::fs::canonicalize(other)) {
        (Ok(one), Ok(other)) => one == other,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, BufReader, Write as _};
    use std::os::unix::net::UnixListener;

    use super::*;

    /// What is tried for `/etc/moontide/config.toml` with this text.
    #[track_caller]
    fn check(text: &str, runtime_directory: Option<&str>, own: &[&str], usual: &[&str]) {
        let given = runtime_directory.map(str::to_owned);
        let environment = |name: &str| (name == "RUNTIME_DIRECTORY").then(|| given.clone())?;
        let paths = |list: &[&str]| list.iter().map(PathBuf::from).collect();
        let path = Path::new("/etc/moontide/config.toml");
        let expected = Candidates {
            own: paths(own),
            usual: paths(usual),
        };
        assert_eq!(candidates(path, text, &environment), expected);
    }

    const USUAL: &[&str] = &["/etc/moontide/.moontide", "/run/moontide"];
    const WITH_B: &[&str] = &["/run/b", "/etc/moontide/.moontide", "/run/moontide"];

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
    fn what_the_configuration_says_comes_first() {
        check(
            "[daemon]\nruntimeDirectory = '/run/a'",
            Some("/run/b"),
            &["/run/a"],
            WITH_B,
        );
        check(
            "daemon.runtimeDirectory = 'run'",
            None,
            &["/etc/moontide/run"],
            USUAL,
        );
        check(
            "daemon.runtimeDirectory = '/run/moontide'",
            None,
            &["/run/moontide"],
            &USUAL[..1],
        );
    }

    #[test]
    fn a_bad_configuration_says_it_as_well() {
        check(
            "[daemon]\nruntimeDirectory = '/run/a'\n[[listeners]\ntopic = ",
            None,
            &["/run/a"],
            USUAL,
        );
        check(
            "topic = = 1\n[daemon]\ndrainDeadline = '20 moons'\nruntimeDirectory = '/run/a'",
            None,
            &["/run/a"],
            USUAL,
        );
    }

    #[test]
    fn references_to_the_environment_are_followed() {
        check(
            "daemon.runtimeDirectory = '${RUNTIME_DIRECTORY}/x'",
            Some("/run/b"),
            &["/run/b/x"],
            WITH_B,
        );
        check(
            "daemon.runtimeDirectory = '${OTHER:-/run/c}'",
            Some("/run/b"),
            &["/run/c"],
            WITH_B,
        );
        check(
            "daemon.runtimeDirectory = '${OTHER}'",
            Some("/run/b"),
            WITH_B,
            &[],
        );
    }

    #[test]
    fn without_it_the_usual_places_are_tried() {
        check("", None, USUAL, &[]);
        check("", Some("/run/b:/run/c"), WITH_B, &[]);
        check("[daemon]\nruntimeDirectory = 7", Some(""), USUAL, &[]);
    }

    #[test]
    fn a_daemon_that_is_in_none_of_several_places_is_told_with_all_of_them() {
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("config.toml");
        let new = folder.path().join("new");
        let text = format!("daemon.runtimeDirectory = '{}'", new.display());
        std::fs::write(&config, text).unwrap();
        let daemon = Daemon {
            config: ConfigOption {
                config: Some(config),
            },
            runtime_directory: None,
        };
        let error = daemon.directory().unwrap_err().to_string();
        let expected = format!(
            "no daemon runs with runtime directory `{}` or `{}` or `/run/moontide`; start it with `moontide run`, or name \
             the directory by --runtime-directory",
            new.display(),
            folder.path().join(".moontide").display()
        );
        assert_eq!(error, expected);
        assert_eq!(daemon.likely_directory().unwrap(), new);
    }

    /// What is found beside a daemon in the usual place that says it runs `config`.
    fn found_beside(folder: &Path, config: &Path) -> Option<PathBuf> {
        let own = folder.join("config.toml");
        std::fs::write(&own, "daemon.runtimeDirectory = 'new'").unwrap();
        let usual = folder.join(".moontide");
        std::fs::create_dir(&usual).unwrap();
        let socket = UnixListener::bind(usual.join(config::SOCKET)).unwrap();
        let answer = Answer {
            daemon: Identity {
                pid: 1,
                config: config.display().to_string(),
            },
            response: Response::Status(Box::default()),
        };
        let answer = serde_json::to_string(&answer).unwrap();
        let answering = std::thread::spawn(move || {
            // The first one only looks whether somebody is there.
            for stream in socket.incoming().take(2) {
                let mut stream = stream.unwrap();
                let mut line = String::new();
                BufReader::new(&stream).read_line(&mut line).unwrap();
                if !line.is_empty() {
                    writeln!(stream, "{answer}").unwrap();
                }
            }
        });
        let daemon = Daemon {
            config: ConfigOption { config: Some(own) },
            runtime_directory: None,
        };
        let found = daemon.directory().ok();
        answering.join().unwrap();
        found
    }

    #[test]
    fn a_daemon_that_runs_this_configuration_is_found_where_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let own = folder.path().join("config.toml");
        let found = found_beside(folder.path(), &own);
        assert_eq!(found, Some(folder.path().join(".moontide")));
    }

    #[test]
    fn a_daemon_of_another_configuration_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let other = folder.path().join("other.toml");
        std::fs::write(&other, "").unwrap();
        assert_eq!(found_beside(folder.path(), &other), None);
    }
}
