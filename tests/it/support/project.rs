//! A project on disk as a user would have it: config.toml, handlers, and what the handlers have written down.
//!
//! Handlers record a call by one line in one file, written by one system call: so the lines of several daemons do not
//! mix, and a daemon that is killed leaves no half of one that counts.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use super::kafka::{Kafka, unique};
use super::wait::wait_for;

/// Lost members are noticed within seconds.
const CONSUMER: &str = "sessionTimeout = \"6s\"\nheartbeatInterval = \"500ms\"\n";

const RECORD: &str = r#"
local file = assert(io.open("@FILE@", "ab"))
file:setvbuf("full", 65536)
local M = {}
function M.hex(bytes)
  if bytes == nil then return "nil" end
  return (bytes:gsub(".", function(byte) return string.format("%02x", byte:byte()) end))
end
-- One line a call: what happened, where, and whatever else the test wants to know.
function M.line(event, message, ctx, extra)
  local fields = {
    event, message.topic, message.partition, message.offset, message.value or "nil", ctx.attempt, extra or "",
  }
  for index = 1, #fields do fields[index] = tostring(fields[index]) end
  file:write(table.concat(fields, "\t") .. "\n")
  file:flush()
end
function M.note(event, extra)
  file:write(table.concat({ event, "", "-1", "-1", "", "0", tostring(extra or "") }, "\t") .. "\n")
  file:flush()
end
return M
"#;

/// A handler that only records, as `handle`.
pub(crate) const RECORDING: &str = r#"
local record = require "record"
local M = {}
function M.handle(message, ctx)
  record.line("done", message, ctx)
end
return M
"#;

/// Records each attempt as `try`, fails until the gate is open, then records `done`.
pub(crate) const GATED: &str = r#"
local record = require "record"
local M = {}
function M.handle(message, ctx)
  record.line("try", message, ctx)
  local gate = io.open("gate")
  if not gate then error("the gate is closed") end
  gate:close()
  record.line("done", message, ctx)
end
return M
"#;

pub(crate) struct Project {
    directory: TempDir,
    pub(crate) group: String,
    bootstrap: String,
    consumer: String,
    sections: String,
}

/// One recorded line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) event: String,
    pub(crate) topic: String,
    pub(crate) partition: i32,
    pub(crate) offset: i64,
    pub(crate) value: String,
    pub(crate) attempt: u32,
    pub(crate) extra: String,
}

impl Project {
    /// With a group of its own, and `handlers/record.lua` for its handlers.
    pub(crate) fn new(kafka: &Kafka) -> Self {
        Self::at(kafka.bootstrap())
    }

    /// For brokers at this address.
    pub(crate) fn at(bootstrap: String) -> Self {
        let directory = tempfile::Builder::new()
            .prefix("moontide-test-")
            .tempdir()
            .unwrap();
        fs::create_dir(directory.path().join("handlers")).unwrap();
        let project = Self {
            directory,
            group: unique("group"),
            bootstrap,
            consumer: CONSUMER.into(),
            sections: String::new(),
        };
        let record = RECORD.replace("@FILE@", project.record_path().to_str().unwrap());
        project.handler("record.lua", &record);
        project
    }

    /// The same group, config and handlers in another directory; what is recorded goes to the first one's file.
    pub(crate) fn another_member(&self) -> Self {
        let directory = tempfile::Builder::new()
            .prefix("moontide-test-")
            .tempdir()
            .unwrap();
        let mut copy = Command::new("cp");
        let copied = copy
            .arg("-r")
            .arg(self.path("handlers"))
            .arg(directory.path())
            .status()
            .unwrap();
        assert!(copied.success());
        let member = Self {
            directory,
            group: self.group.clone(),
            bootstrap: self.bootstrap.clone(),
            consumer: self.consumer.clone(),
            sections: self.sections.clone(),
        };
        let text = fs::read_to_string(self.path("config.toml")).unwrap();
        let (old, new) = (self.path("."), member.path("."));
        member.write(
            "config.toml",
            &text.replace(old.to_str().unwrap(), new.to_str().unwrap()),
        );
        member
    }

    /// The lines of `[consumerConfig]` but groupId, in place of short time-outs.
    pub(crate) fn consumer(mut self, lines: &str) -> Self {
        self.consumer = format!("{lines}\n");
        self
    }

    /// Further tables: `[lua]`, `[daemon]` …
    pub(crate) fn sections(mut self, text: &str) -> Self {
        self.sections = format!("{text}\n");
        self
    }

    /// Writes config.toml with these listeners.
    pub(crate) fn config(&self, listeners: &str) {
        self.write("config.toml", &self.config_text(listeners));
    }

    pub(crate) fn config_text(&self, listeners: &str) -> String {
        let mut text = String::new();
        writeln!(
            text,
            "[kafkaConfig]\nclientId = \"tests\"\nbrokers = [\"{}\"]\n",
            self.bootstrap
        )
        .unwrap();
        writeln!(
            text,
            "[consumerConfig]\ngroupId = \"{}\"\n{}",
            self.group, self.consumer
        )
        .unwrap();
        writeln!(text, "{}\n{listeners}", self.sections).unwrap();
        if !self.sections.contains("[log]") {
            text.push_str("\n[log]\nformat = \"json\"\n");
        }
        if !self.sections.contains("[daemon]") {
            text.push_str("\n[daemon]\n");
        }
        // Of the tests' own: no two projects share a socket.
        text.replace(
            "[daemon]\n",
            &format!(
                "[daemon]\nruntimeDirectory = \"{0}\"\nstateDirectory = \"{0}\"\n",
                self.path(".").display()
            ),
        )
    }

    /// Writes a file below handlers/ in place, as the plainest of editors does.
    pub(crate) fn handler(&self, file: &str, lua: &str) {
        self.write(&format!("handlers/{file}"), lua);
    }

    /// Replaces a file by renaming another over it, as most editors and all deployments do.
    pub(crate) fn replace_handler(&self, file: &str, lua: &str) {
        let target = self.path("handlers").join(file);
        let temporary = target.with_extension("lua~");
        fs::write(&temporary, lua).unwrap();
        fs::rename(temporary, target).unwrap();
    }

    pub(crate) fn write(&self, file: &str, text: &str) {
        let path = self.path(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// What the handlers of `GATED` wait for.
    pub(crate) fn open_gate(&self) {
        self.write("gate", "");
    }

    pub(crate) fn path(&self, file: &str) -> PathBuf {
        let directory = self.directory.path();
        if file == "." {
            directory.into()
        } else {
            directory.join(file)
        }
    }

    pub(crate) fn record_path(&self) -> PathBuf {
        self.path("record.tsv")
    }

    /// Everything recorded so far, in its order.
    pub(crate) fn entries(&self) -> Vec<Entry> {
        read_entries(&self.record_path())
    }

    /// What was recorded as `event`.
    pub(crate) fn entries_of(&self, event: &str) -> Vec<Entry> {
        self.entries()
            .into_iter()
            .filter(|entry| entry.event == event)
            .collect()
    }

    /// The values of `event`, in the order of the calls.
    pub(crate) fn values_of(&self, event: &str) -> Vec<String> {
        self.entries_of(event)
            .into_iter()
            .map(|entry| entry.value)
            .collect()
    }

    /// Waits for so many calls recorded as `event`, and no more than those.
    #[track_caller]
    pub(crate) fn wait_for_entries(
        &self,
        event: &str,
        count: usize,
        deadline: Duration,
    ) -> Vec<Entry> {
        wait_for(&format!("{count} times `{event}`"), deadline, || {
            self.entries_of(event).len() >= count
        });
        let entries = self.entries_of(event);
        assert_eq!(
            entries.len(),
            count,
            "more calls than expected: {entries:?}"
        );
        entries
    }
}

/// One listener as it stands in config.toml; more keys may be appended.
pub(crate) fn listener(name: &str, topic: &str, handler: &str) -> String {
    format!("\n[[listeners]]\nname = \"{name}\"\ntopic = \"{topic}\"\nhandler = \"{handler}\"\n")
}

pub(crate) fn from_beginning(name: &str, topic: &str, handler: &str) -> String {
    listener(name, topic, handler) + "subscription = { fromBeginning = true }\n"
}

pub(crate) fn read_entries(path: &Path) -> Vec<Entry> {
    let text = fs::read(path).unwrap_or_default();
    let whole = text
        .iter()
        .rposition(|byte| *byte == b'\n')
        .map_or(0, |end| end + 1);
    String::from_utf8_lossy(&text[..whole])
        .lines()
        .map(entry)
        .collect()
}

pub(crate) fn entry(line: &str) -> Entry {
    let fields: Vec<&str> = line.split('\t').collect();
    let [event, topic, partition, offset, value, attempt, extra] = fields[..] else {
        panic!("not a recorded line: `{line}`");
    };
    Entry {
        event: event.into(),
        topic: topic.into(),
        partition: partition.parse().unwrap(),
        offset: offset.parse().unwrap(),
        value: value.into(),
        attempt: attempt.parse().unwrap(),
        extra: extra.into(),
    }
}
