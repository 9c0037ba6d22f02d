//! `moontide dev`: the daemon on an embedded broker, for writing handlers without a Kafka cluster.
//!
//! The daemon is the same as in `run`; the config's brokers are replaced at the start and at each reload. The
//! messages of messages.jsonl are delivered before it starts. No data leaves this machine: no client ever gets the
//! config's own brokers.

pub(crate) mod address;
mod adjust;
mod samples;
mod welcome;

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};

use super::{ConfigOption, Exit, init, run, terminal};
use crate::bundle;
use crate::config::Config;
use crate::daemon::{self, Options};
use crate::kafka::mock::{self, Broker};
use crate::kafka::producer::{Outgoing, Producer};
use crate::kafka::property::Value;
use crate::log::log;
use crate::service::control;
use crate::telemetry::logging::Audience;
use samples::Sample;
use welcome::Welcome;

/// The limit for a send to the embedded broker, which answers within milliseconds.
const SEND_DEADLINE: Duration = Duration::from_secs(10);

/// Runs the daemon on an embedded broker, for writing handlers without Kafka.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    config: ConfigOption,
    /// A further topic to create, as for a listener with a pattern; may be given several times
    #[arg(long = "topic", value_name = "TOPIC")]
    topics: Vec<String>,
    /// Partitions of each topic
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(i32).range(1..=1000))]
    partitions: i32,
    /// Messages to deliver, one JSON object a line [default: messages.jsonl beside the configuration, if it exists]
    #[arg(long, value_name = "FILE")]
    messages: Option<PathBuf>,
}

pub(crate) fn run(arguments: &Arguments) -> Exit {
    let path = arguments.config.path();
    if let Err(exit) = offer_init(&path) {
        return exit;
    }
    let config = match load(&path) {
        Ok(config) => config,
        Err(error) => {
            terminal::complain(format_args!("{error:#}"));
            return Exit::BadConfig;
        }
    };
    match Stage::set(arguments, &path, &config) {
        Ok(stage) => stage.play(path),
        Err(error) => {
            terminal::complain(format_args!("{error:#}"));
            Exit::Failed
        }
    }
}

/// Loads only the config, so that a mistake in a handler does not prevent that.
pub(super) fn load(path: &Path) -> Result<Arc<Config>> {
    bundle::load(path, 1)
        .map(|bundle| bundle.config)
        .map_err(|errors| anyhow!("{errors}"))
}

/// Without a config, the command offers to write a project.
fn offer_init(config: &Path) -> Result<(), Exit> {
    if config.exists() || config.file_name() != Some("config.toml".as_ref()) {
        return Ok(());
    }
    let directory = config
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    let question = format!(
        "There is no {}. Write a small project here?",
        config.display()
    );
    match terminal::ask(&question) {
        Some(true) => init::write(directory).map_err(|error| {
            terminal::complain(format_args!("{error:#}"));
            Exit::Failed
        }),
        Some(false) => Err(Exit::Failed),
        None => {
            let (program, config) = (terminal::program(), config.display());
            let directory = terminal::quote(&directory.display().to_string());
            terminal::complain(format_args!(
                "{config} does not exist; `{program} init {directory}` writes a small project"
            ));
            Err(Exit::BadConfig)
        }
    }
}

/// The embedded broker begins without topics and offsets, and so does the state.
fn forget_state(directory: &Path) -> Result<()> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove `{}`", directory.display()))
        }
        _ => Ok(()),
    }
}

/// The embedded broker with everything that the daemon finds on it at its start.
struct Stage {
    broker: Broker,
    partitions: i32,
    /// Removes the file at the end.
    _published: address::Published,
}

impl Stage {
    fn set(arguments: &Arguments, path: &Path, config: &Config) -> Result<Self> {
        let runtime_directory = &config.daemon.runtime_directory;
        if let Some(other) = address::find(runtime_directory)? {
            bail!(
                "{}: `moontide dev` already runs here, as process {}",
                path.display(),
                other.pid
            );
        }
        if control::answers(runtime_directory) {
            bail!(
                "{}: `moontide run` runs here already; end it first, or set another `daemon.runtimeDirectory`",
                path.display()
            );
        }
        forget_state(&adjust::state_directory(config))?;
        let (messages, samples) = read_samples(arguments, path)?;
        let broker = Broker::start()?;
        let mut topics = adjust::literal_topics(config);
        topics.extend(arguments.topics.iter().cloned());
        topics.extend(samples.iter().map(|sample| sample.record.topic.to_string()));
        let matched: Vec<&str> = topics.iter().map(String::as_str).collect();
        for topic in topics
            .iter()
            .cloned()
            .chain(adjust::required_topics(config, &matched))
        {
            broker.create_topic(&topic, arguments.partitions)?;
        }
        deliver(&samples, broker.address()).with_context(|| messages.display().to_string())?;
        let published = address::publish(runtime_directory, broker.address())?;
        let welcome = Welcome {
            config,
            config_argument: arguments.config.config.as_deref(),
            address: broker.address(),
            topics: &topics.into_iter().collect::<Vec<_>>(),
            samples: &samples,
            messages: &messages,
        };
        welcome.lines().iter().for_each(terminal::say);
        Ok(Self {
            broker,
            partitions: arguments.partitions,
            _published: published,
        })
    }

    /// Runs the daemon until it is stopped.
    fn play(self, config: PathBuf) -> Exit {
        let stage = Arc::new(self);
        let adjusting = Arc::clone(&stage);
        let ended = daemon::run(Options {
            config,
            adjust: Some(Arc::new(move |config| adjusting.adjust(config))),
            audience: Audience::Person,
            code: run::code,
        });
        drop(stage);
        run::exit(ended)
    }

    /// Called with the config of the start and of each reload, which may name new topics.
    fn adjust(&self, config: &mut Config) {
        let needed = adjust::required_topics(config, &[]);
        for topic in adjust::literal_topics(config).into_iter().chain(needed) {
            if let Err(error) = self.broker.create_topic(&topic, self.partitions) {
                log!(
                    error,
                    dev,
                    topic,
                    error = format!("{error:#}"),
                    "cannot create the topic"
                );
            }
        }
        adjust::adjust(config, self.broker.address());
    }
}

fn read_samples(arguments: &Arguments, config: &Path) -> Result<(PathBuf, Vec<Sample>)> {
    let beside = config.with_file_name("messages.jsonl");
    let path = arguments.messages.as_ref().unwrap_or(&beside);
    if arguments.messages.is_none() && !path.exists() {
        return Ok((beside, Vec::new()));
    }
    let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let samples = samples::parse(path, &text).map_err(|error| anyhow!(error))?;
    for Sample { line, record } in &samples {
        if record
            .partition
            .is_some_and(|partition| partition >= arguments.partitions)
        {
            bail!(
                "{}:{line}: partition {} of {} (--partitions says how many there are)",
                path.display(),
                record.partition.unwrap_or_default(),
                arguments.partitions
            );
        }
    }
    let bytes: usize = samples.iter().map(|sample| sample.record.size()).sum();
    if bytes > mock::PARTITION_BYTES_MAX {
        let (found, allowed) = (bytes >> 10, mock::PARTITION_BYTES_MAX >> 10);
        bail!(
            "{}: {found} KiB of messages, the embedded broker keeps {allowed} KiB and loses the rest",
            path.display()
        );
    }
    Ok((path.clone(), samples))
}

fn deliver(samples: &[Sample], address: &str) -> Result<()> {
    if samples.is_empty() {
        return Ok(());
    }
    let brokers = Value {
        text: address.to_owned(),
        secret: false,
    };
    let producer = Producer::new(
        &BTreeMap::from([("bootstrap.servers".to_owned(), brokers)]),
        SEND_DEADLINE,
    )?;
    let records: Vec<Outgoing> = samples.iter().map(|sample| sample.record.clone()).collect();
    producer.send_all(&records).map(|_| ())
}
