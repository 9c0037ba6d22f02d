//! Functions of `tide` that answer at once, with real messages, and variables of the environment over a reload.

use std::fs;

use crate::support::client::Message;
use crate::support::daemon::Daemon;
use crate::support::kafka;
use crate::support::project::{Project, from_beginning};
use crate::support::wait::DEADLINE;

const HANDLER: &str = r#"
local record, tide = require "record", require "tide"
tide.log.warn("the file loads", { region = tide.regex.escape("a.b") })
local line = tide.regex.new([[^(?<id>\d+):(?<body>.*)$]], { flags = "sb" })
return function(message, ctx)
  local groups = assert(line:match(message.value))
  assert(groups.body == "\0\xff\n")
  local packed = tide.base64.encode(tide.gzip.compress(groups.body))
  assert(tide.gzip.decompress(tide.base64.decode(packed)) == groups.body)
  assert(tide.uuid.parse(tide.uuid.v7(message.timestamp)).time == message.timestamp)
  assert(tide.time.parse(tide.time.format(message.timestamp, { zone = "Asia/Shanghai" })) == message.timestamp)
  local ok, region = pcall(tide.env, "MOONTIDE_IT_REGION")
  if not ok then region = region.kind end
  local code = tide.hmac.sha256("key", groups.body)
  assert(tide.hmac.equals(code, tide.hmac.sha256("key", groups.body)))
  record.line("done", { topic = message.topic, partition = 0, offset = 0, value = groups.id }, ctx, region)
end
"#;

#[test]
fn handlers_work_on_data_and_read_the_listed_variables() {
    let Some(kafka) = kafka::shared() else { return };
    let topic = kafka.topic("at-once", 4);
    let project = Project::new(kafka).sections("[lua]\nenv = [\"MOONTIDE_IT_*\"]");
    project.handler("plain.lua", HANDLER);
    project.config(&from_beginning("plain", &topic.name, "plain"));
    let message = |id: usize| {
        let value = [id.to_string().as_bytes(), b":\x00\xff\n"].concat();
        Message::value(value).key(format!("key-{id}"))
    };
    topic.produce((0..20).map(message));

    let mut daemon = Daemon::spawn_with(&project, &[("MOONTIDE_IT_REGION", "eu-1")]);
    let done = project.wait_for_entries("done", 20, DEADLINE);
    assert!(done.iter().all(|one| one.extra == "eu-1"), "{done:?}");
    let line = daemon.wait_line("the line of the file", |line| line.is("the file loads"));
    assert_eq!(line.field("position"), "handlers/plain.lua:3");
    assert_eq!(line.field("fields"), r#"{"region":"a\\.b"}"#);

    // The list is live.
    let path = project.path("config.toml");
    let config = fs::read_to_string(&path).unwrap();
    fs::write(&path, config.replace("MOONTIDE_IT_*", "OTHER")).unwrap();
    daemon.wait_line("reloaded", |line| line.is("reloaded"));
    topic.produce((20..24).map(message));
    let done = project.wait_for_entries("done", 24, DEADLINE);
    assert!(
        done[20..].iter().all(|one| one.extra == "refused"),
        "{done:?}"
    );
    daemon.stop();
}
