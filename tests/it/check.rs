//! `moontide check` and `moontide schema`: what is wrong is said word for word, and no secret is shown.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

fn moontide(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_moontide"))
        .args(arguments)
        .env_remove("MOONTIDE_CONFIG")
        .env_remove("KAFKA_URL")
        .env_remove("RUNTIME_DIRECTORY")
        .env_remove("STATE_DIRECTORY")
        .output()
        .unwrap()
}

fn folder() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/config"))
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

#[test]
fn every_bad_file_is_refused_in_its_own_words() {
    let mut files = 0;
    for entry in fs::read_dir(folder().join("bad")).unwrap() {
        let path = entry.unwrap().path();
        let path = path.to_str().unwrap();
        let source = fs::read_to_string(path).unwrap();
        let expected: Vec<&str> = source
            .lines()
            .map_while(|line| line.strip_prefix("# error: "))
            .collect();
        let output = moontide(&["check", "--config", path]);
        let prefix = format!("{path}:");
        let found: Vec<&str> = text(&output.stderr)
            .lines()
            .filter_map(|line| line.strip_prefix(&prefix))
            .map(str::trim_start)
            .collect();
        assert!(!expected.is_empty(), "{path} begins with no `# error: `");
        assert_eq!(found, expected, "{path}");
        assert_eq!(output.status.code(), Some(78), "{path}");
        assert_eq!(text(&output.stdout), "", "{path}");
        files += 1;
    }
    assert!(files > 40, "only {files} files");
}

#[test]
fn an_excerpt_shows_no_secret() {
    let path = folder().join("bad/secret-hidden.toml");
    let output = moontide(&["check", "--config", path.to_str().unwrap()]);
    assert!(
        text(&output.stderr).contains("password = ***"),
        "{}",
        text(&output.stderr)
    );
    assert!(!text(&output.stderr).contains("hunter2"));
}

/// Values of keys that may be meant for secrets, and the user of an address.
#[test]
fn what_may_be_a_secret_shows_in_no_excerpt() {
    let folder = installation(
        r#"
[kafkaConfig]
brokers = ["http://anna:hunter2@localhost:9092"]
pwd = "hunter2"
sasl = { mechanism = "plain", username = "u", token = "hunter2", password = "p" }
[kafkaConfig.librdkafka]
"sasl.jaas.config" = "hunter2"
[consumerConfig]
groupId = "g"
unknown = ["hunter2", { deep = "hunter2" }]
[[listeners]]
topic = "t"
handler = "orders.gotData"
"#,
    );
    let config = folder.path().join("config.toml");
    let output = moontide(&["check", "--config", config.to_str().unwrap()]);
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(78));
    for key in ["pwd", "token", "sasl.jaas.config", "unknown", "brokers"] {
        assert!(said.contains(key), "{key}: {said}");
    }
    assert!(!said.contains("hunter2"), "{said}");
}

#[test]
fn open_doors_are_warned_of() {
    let plain = GOOD.replace("${file:password}", "p");
    let unverified = plain.replace(
        "[consumerConfig]",
        "ssl = { rejectUnauthorized = false }\n[consumerConfig]",
    );
    let verified = plain.replace("[consumerConfig]", "ssl = true\n[consumerConfig]");
    for (config, expected) in [
        (
            &plain,
            Some(
                "warning: `sasl.mechanism` is \"plain\" without `ssl`: the password crosses the network in plain text",
            ),
        ),
        (
            &unverified,
            Some("warning: `ssl.rejectUnauthorized` is false: any server can pass for a broker"),
        ),
        (&verified, None),
    ] {
        let folder = installation(config);
        let config = folder.path().join("config.toml");
        let output = moontide(&["check", "--config", config.to_str().unwrap()]);
        let said = text(&output.stdout);
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        let warnings: Vec<_> = said
            .lines()
            .filter(|line| line.starts_with("warning"))
            .collect();
        assert_eq!(warnings, Vec::from_iter(expected), "{said}");
        assert!(said.contains("enable.metrics.push = false"), "{said}");
    }
}

/// The revision where the source is a repository; a tarball has none.
#[test]
fn the_version_has_its_revision() {
    let output = moontide(&["--version"]);
    let shown = text(&output.stdout).trim();
    let version = concat!("moontide ", env!("CARGO_PKG_VERSION"));
    if Path::new(env!("CARGO_MANIFEST_DIR")).join(".git").exists() {
        let revision = shown
            .strip_prefix(version)
            .and_then(|rest| rest.strip_prefix(" ("))
            .and_then(|rest| rest.strip_suffix(')'))
            .unwrap_or_else(|| panic!("{shown}"));
        assert!(revision.len() >= 12, "{shown}");
        assert!(
            revision.bytes().all(|byte| byte.is_ascii_hexdigit()),
            "{shown}"
        );
    } else {
        assert_eq!(shown, version);
    }
}

/// 100,000 unknown keys: the time grows with the file, and the output does not.
#[test]
fn a_file_full_of_errors_is_refused_in_time() {
    let folder = installation(GOOD);
    let mut config = GOOD.replace("${file:password}", "hunter2");
    for number in 0..100_000 {
        writeln!(config, "unknown{number} = 1").unwrap();
    }
    fs::write(folder.path().join("config.toml"), config).unwrap();
    let config = folder.path().join("config.toml");
    let started = Instant::now();
    let output = moontide(&["check", "--config", config.to_str().unwrap()]);
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(78));
    assert!(said.ends_with(": 99900 more errors\n"), "{said}");
    assert!(said.lines().count() <= 301, "{said}");
    assert!(
        started.elapsed() < Duration::from_secs(20),
        "{:?}",
        started.elapsed()
    );
}

/// `require` has libraries of these names before it looks for any file.
#[test]
fn a_handler_with_the_name_of_a_library_is_refused() {
    let folder = installation(
        &GOOD
            .replace("${file:password}", "p")
            .replace("orders.gotData", "debug.gotData"),
    );
    let handlers = folder.path().join("handlers");
    for name in ["debug.lua", "tide.lua"] {
        fs::copy(handlers.join("orders.lua"), handlers.join(name)).unwrap();
    }
    let config = folder.path().join("config.toml");
    let output = moontide(&["check", "--config", config.to_str().unwrap()]);
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(78));
    assert!(
        said.contains(
            "handlers/debug.lua` is never loaded: `debug` is the name of a library; rename the file"
        ),
        "{said}"
    );

    let good = fs::read_to_string(&config)
        .unwrap()
        .replace("debug.gotData", "orders.gotData");
    fs::write(&config, good).unwrap();
    let output = moontide(&["check", "--config", config.to_str().unwrap()]);
    let said = text(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    for name in ["debug.lua", "tide.lua"] {
        assert!(
            said.contains(&format!(
                "handlers/{name}: is never loaded, since a library has this name"
            )),
            "{said}"
        );
    }
}

/// A module that only a call would require.
#[test]
fn a_module_that_does_not_compile_is_refused() {
    let folder = installation(&GOOD.replace("${file:password}", "p"));
    fs::write(folder.path().join("handlers/late.lua"), "local = 1\n").unwrap();
    let config = folder.path().join("config.toml");
    let output = moontide(&["check", "--config", config.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(78));
    assert_eq!(
        text(&output.stderr),
        "handlers/late.lua:1: <name> expected near '='\n"
    );
}

/// Code that no hook ends: in C, and in a `__gc` method.
#[test]
fn a_file_that_does_not_end_its_load_is_refused_with_its_position() {
    let config = GOOD.replace("${file:password}", "p") + "limits = { blocking = \"100ms\" }\n";
    // Its output would keep the pipe of the test open.
    let sleeps = "\nos.execute('exec sleep 30 >/dev/null 2>&1')\n";
    let collects = "\nsetmetatable({}, { __gc = function() while true do pcall(error) end end }) collectgarbage()\n";
    for text in [sleeps, collects] {
        let folder = installation(&config);
        fs::write(folder.path().join("handlers/orders.lua"), text).unwrap();
        let config = folder.path().join("config.toml");
        let output = moontide(&["check", "--config", config.to_str().unwrap()]);
        let said = text_of(&output);
        assert_eq!(output.status.code(), Some(78), "{said}");
        assert!(
            said.starts_with("handlers/orders.lua:2: code that nothing can interrupt"),
            "{said}"
        );
    }
    let at_the_end = "guard = setmetatable({}, { __gc = function() while true do pcall(error) end end })\nreturn { gotData = print }\n";
    let folder = installation(&config);
    fs::write(folder.path().join("handlers/orders.lua"), at_the_end).unwrap();
    let config = folder.path().join("config.toml");
    let output = moontide(&["check", "--config", config.to_str().unwrap()]);
    let said = text_of(&output);
    assert_eq!(output.status.code(), Some(78), "{said}");
    assert!(said.contains("a finalizer, at the end of a vm"), "{said}");
}

fn text_of(output: &Output) -> &str {
    text(&output.stderr)
}

fn make_pipe(path: &Path) {
    assert!(Command::new("mkfifo").arg(path).status().unwrap().success());
}

/// A read of a named pipe waits for its writer.
#[test]
fn a_named_pipe_is_refused_and_not_waited_for() {
    let folder = installation(GOOD);
    let at = |name: &str| folder.path().join(name);
    let config = at("config.toml");
    let check = || {
        let output = moontide(&["check", "--config", config.to_str().unwrap()]);
        assert_eq!(output.status.code(), Some(78));
        text_of(&output).to_owned()
    };
    make_pipe(&at("password"));
    let said = check();
    assert!(
        said.contains("`${file:password}`: is a named pipe, not a regular file"),
        "{said}"
    );

    fs::remove_file(at("password")).unwrap();
    fs::write(at("password"), "hunter2").unwrap();
    fs::remove_file(at("handlers/orders.lua")).unwrap();
    make_pipe(&at("handlers/orders.lua"));
    let said = check();
    assert!(
        said.contains("handler `handlers/orders.lua` is a named pipe, not a regular file"),
        "{said}"
    );

    fs::remove_file(&config).unwrap();
    make_pipe(&config);
    let said = check();
    let expected = format!(
        "{}: cannot be read: is a named pipe, not a regular file",
        config.display()
    );
    assert!(said.starts_with(&expected), "{said}");
}

/// What other programs leave in the folder.
#[test]
fn files_that_nothing_loads_are_warnings_and_needed_ones_errors() {
    let folder = installation(&GOOD.replace("${file:password}", "p"));
    let at = |name: &str| folder.path().join("handlers").join(name);
    let config = folder.path().join("config.toml");
    let check = || moontide(&["check", "--config", config.to_str().unwrap()]);
    std::os::unix::fs::symlink("/no/such/file", at("gone.lua")).unwrap();
    make_pipe(&at("pipe.lua"));
    for name in ["orders.sync-conflict.lua", "x.test.lua", "table.lua"] {
        fs::write(at(name), "not Lua\n").unwrap();
    }
    let output = check();
    let said = text(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{}", text_of(&output));
    let warnings: Vec<_> = said
        .lines()
        .filter(|line| line.starts_with("warning: "))
        .collect();
    for name in [
        "gone.lua",
        "pipe.lua",
        "orders.sync-conflict.lua",
        "x.test.lua",
        "table.lua",
    ] {
        let named = warnings
            .iter()
            .filter(|line| line.contains(&format!("handlers/{name}: ")));
        assert_eq!(named.count(), 1, "{name}: {said}");
    }

    fs::write(at("orders.lua"), "\nlocal gone = require \"gone\"\n").unwrap();
    let output = check();
    let said = text_of(&output);
    assert_eq!(output.status.code(), Some(78));
    assert!(
        said.starts_with("handlers/orders.lua:2: module 'gone' not found:"),
        "{said}"
    );
    assert!(
        said.contains("file 'handlers/gone.lua' is a link to a file that does not exist"),
        "{said}"
    );
}

/// A folder with a handler and this configuration.
fn installation(config: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("handlers")).unwrap();
    fs::write(
        folder.path().join("handlers/orders.lua"),
        "return { gotData = function() end }\n",
    )
    .unwrap();
    fs::write(folder.path().join("config.toml"), config).unwrap();
    folder
}

const GOOD: &str = r#"
[kafkaConfig]
brokers = ["localhost:9092"]
sasl = { mechanism = "plain", username = "u", password = "${file:password}" }

[consumerConfig]
groupId = "g"

[[listeners]]
topic = "t"
handler = "orders.gotData"
"#;

#[test]
fn a_good_file_tells_what_would_run_and_no_secret() {
    let folder = installation(GOOD);
    fs::write(folder.path().join("password"), "hunter2\n").unwrap();
    let config = folder.path().join("config.toml");
    for form in [
        &["check", "--config", config.to_str().unwrap()][..],
        &["check", "--json", "--config", config.to_str().unwrap()],
    ] {
        let output = moontide(form);
        let shown = text(&output.stdout);
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        assert!(
            shown.contains("orders.gotData") && shown.contains("localhost:9092"),
            "{shown}"
        );
        assert!(!shown.contains("hunter2"), "{shown}");
    }
}

/// As systemd's `LoadCredential=` hands it over.
#[test]
fn a_credential_is_read_and_not_shown() {
    let folder = installation(&GOOD.replace("file:password", "credential:kafka"));
    fs::create_dir(folder.path().join("credentials")).unwrap();
    fs::write(folder.path().join("credentials/kafka"), "hunter2\n").unwrap();
    let config = folder.path().join("config.toml");
    let check = |directory: Option<&Path>| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_moontide"));
        command.args(["check", "--config"]).arg(&config);
        command.env_remove("CREDENTIALS_DIRECTORY");
        command.envs(directory.map(|directory| ("CREDENTIALS_DIRECTORY", directory)));
        let output = command.output().unwrap();
        let shown = text(&output.stdout).to_owned() + text(&output.stderr);
        (output.status.code(), shown)
    };

    let (code, shown) = check(Some(&folder.path().join("credentials")));
    assert_eq!(code, Some(0), "{shown}");
    assert!(!shown.contains("hunter2"), "{shown}");

    let (code, shown) = check(None);
    assert_eq!(code, Some(78));
    assert!(shown.contains("$CREDENTIALS_DIRECTORY"), "{shown}");
}

#[test]
fn listeners_of_one_topic_that_may_differ_are_warned_about() {
    let listener = "[[listeners]]\nname = \"second\"\ntopic = \"^t\"\nhandler = \"orders.gotData\"\n\
                    runConfig = { autoCommit = false }\nsubscription = { fromBeginning = true }\n";
    let folder = installation(&format!("{GOOD}{listener}"));
    fs::write(folder.path().join("password"), "x\n").unwrap();
    let output = moontide(&[
        "check",
        "--config",
        folder.path().join("config.toml").to_str().unwrap(),
    ]);
    let warnings = text(&output.stdout)
        .lines()
        .filter(|line| line.starts_with("warning: listeners "))
        .count();
    assert_eq!(
        (output.status.code(), warnings),
        (Some(0), 2),
        "{}",
        text(&output.stdout)
    );
}

#[test]
fn a_file_that_is_missing_is_a_bad_configuration() {
    let output = moontide(&["check", "--config", "/no/such/config.toml"]);
    assert_eq!(output.status.code(), Some(78));
    assert!(
        text(&output.stderr).starts_with("/no/such/config.toml: does not exist"),
        "{}",
        text(&output.stderr)
    );
}

#[test]
fn the_schema_is_json_and_describes_every_key() {
    let output = moontide(&["schema"]);
    let schema: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    for (name, table) in schema["$defs"].as_object().unwrap() {
        for (key, property) in table["properties"].as_object().into_iter().flatten() {
            assert!(
                property["description"].is_string(),
                "{name}.{key} has no description"
            );
        }
    }
}

/// A check of `config` in a folder of its own, which must be good.
#[track_caller]
fn shown(config: &str, options: &[&str]) -> String {
    let folder = installation(config);
    let path = folder.path().join("config.toml");
    let arguments = [&["check", "--config", path.to_str().unwrap()], options].concat();
    let output = moontide(&arguments);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    text(&output.stdout).to_owned()
}

const PLAIN: &str =
    "[kafkaConfig]\nbrokers = ['localhost:9092']\n[consumerConfig]\ngroupId = 'g'\n";

/// What is shown of the one listener, behind its name.
#[track_caller]
fn check_policies(listener: &str, expected: &[&str]) {
    let base = "[[listeners]]\ntopic = 't'\nhandler = 'orders.gotData'\n";
    let shown = shown(&[PLAIN, base, listener].concat(), &[]);
    let found: Vec<&str> = shown
        .lines()
        .filter_map(|line| line.strip_prefix("      "))
        .collect();
    assert_eq!(found, expected);
}

#[test]
fn the_policies_of_a_listener_are_told_in_words() {
    let usual = "at most 5s of Lua without a wait, 5m of a whole call";
    check_policies(
        "",
        &[
            "a new group starts at the end; commits automatically",
            "in the order of their partition; at most 1000 in flight",
            usual,
            "a failed message runs again until it is done, after waits of 300ms to 30s",
        ],
    );
    check_policies(
        "rateLimit = { messages = 5, per = '1m' }\ndelay = '15m'\n",
        &[
            "a new group starts at the end; commits automatically",
            "a message runs when it is 15m old by its timestamp",
            "in the order of their partition; at most 1000 in flight",
            usual,
            "at most 5 runs in 1m, retries included, over all workers",
            "a failed message runs again until it is done, after waits of 300ms to 30s",
        ],
    );
    check_policies(
        "ordering = 'key'\nmaxInFlight = 8\ndeadLetter = { topic = '{topic}.{group}.{listener}' }\n",
        &[
            "a new group starts at the end; commits automatically",
            "in the order of their key; without a key in no order; at most 8 in flight",
            usual,
            "a failed message runs 5 times, after waits of 300ms to 30s, then becomes a dead letter",
            "dead letters go to t.g.orders.gotData, with headers as of moontide, at most 600 a minute; one that is too large blocks its lane, one that is refused blocks its lane",
            "the breaker opens when 50 % of at least 20 runs in 30s fail, pauses for 30s, and closes after 3 probes",
        ],
    );
    check_policies(
        "ordering = 'none'\nonError = 'skip'\nretry = { topics = ['5s', '1m'], allowAutoTopicCreation = true, infrastructure = 'count' }\n\
         deadLetter = { headerStyle = 'spring', tooLarge = 'dropValue' }\nsubscription = { fromBeginning = true }\n",
        &[
            "a new group starts at the beginning; commits automatically",
            "in no order; at most 1000 in flight",
            usual,
            "a failed message runs 3 times, through t.g.retry.5s, t.g.retry.1m (made where missing), which gives up their order, then is skipped",
            "infrastructure that is away counts as any other failure",
            "dead letters that ctx.deadLetter requests go to t.dead, with headers as of spring, at most 600 a minute; one that is too large loses its value, one that is refused blocks its lane",
        ],
    );
}

#[test]
fn the_policies_of_a_listener_are_told_by_the_configurations_names() {
    let listener = "[[listeners]]\ntopic = 't'\nhandler = 'orders.gotData'\nordering = 'key'\n\
                    nullKeys = 'partition'\ndeadLetter = {}\nretry = { topics = ['5s'] }\n\
                    [http]\nlisten = '127.0.0.1:0'\n[daemon]\ncrashes = 7\n";
    let shown = shown(&[PLAIN, listener].concat(), &["--json"]);
    let json: serde_json::Value = serde_json::from_str(&shown).unwrap();
    let found = &json["listeners"][0];
    assert_eq!(
        (&found["ordering"], &found["nullKeys"], &found["onError"]),
        (&"key".into(), &"partition".into(), &"deadLetter".into())
    );
    assert_eq!(
        (&found["retry"]["topics"][0], &found["retry"]["attempts"]),
        (&5_000.into(), &2.into())
    );
    assert_eq!(found["retry"]["infrastructure"], "wait");
    assert_eq!(found["deadLetter"]["topics"][0], "t.dead");
    assert_eq!(found["breaker"]["minimumRuns"], 20);
    assert_eq!(found["limits"]["timeout"], 300_000);
    assert!(found["rateLimit"].is_null());
    assert_eq!(json["http"]["listen"], "127.0.0.1:0");
    assert_eq!(json["daemon"]["crashes"], 7);
    assert_eq!(json["warnings"].as_array().unwrap().len(), 1);
}

#[test]
fn every_handler_that_does_not_load_has_an_entry_of_its_own() {
    let listeners = "[[listeners]]\ntopic = 't'\nhandler = 'orders.missing'\n\
                     [[listeners]]\ntopic = 't'\nhandler = 'broken.f'\n";
    let folder = installation(&[PLAIN, listeners].concat());
    fs::write(
        folder.path().join("handlers/broken.lua"),
        "error('two\\nlines')\n",
    )
    .unwrap();
    let path = folder.path().join("config.toml");
    let output = moontide(&["check", "--json", "--config", path.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(78));
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let messages: Vec<&str> = json["errors"]
        .as_array()
        .unwrap()
        .iter()
        .map(|error| error["message"].as_str().unwrap())
        .collect();
    assert_eq!(messages.len(), 2, "{messages:?}");
    assert!(
        messages[0].starts_with("handlers/orders.lua")
            && messages[1].starts_with("handlers/broken.lua:1: two\nlines"),
        "{messages:?}"
    );
}

#[test]
fn a_log_file_that_nobody_can_write_is_an_error_and_nothing_is_made() {
    let listener = "[[listeners]]\ntopic = 't'\nhandler = 'orders.gotData'\n";
    let folder = installation(&[PLAIN, listener, "[log]\nfile = 'orders/x.log'\n"].concat());
    let path = folder.path().join("config.toml");
    let check = || moontide(&["check", "--config", path.to_str().unwrap()]);
    let output = check();
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert!(!folder.path().join("orders").exists());

    fs::write(folder.path().join("orders"), "").unwrap();
    let output = check();
    assert_eq!(output.status.code(), Some(78));
    assert_eq!(
        text(&output.stderr),
        format!(
            "{}: `[log] file`: `{}` cannot be written: not a directory\n",
            path.display(),
            folder.path().join("orders").display()
        )
    );
}
