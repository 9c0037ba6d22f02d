//! `[lua]`, `[log]`, `[daemon]` and `[http]`: the tables of the process.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::env_names::EnvNames;
use super::file::{self, File};
use super::tree;
use super::{Daemon, Http, Log, LogFormat, Lua, Rotation, SOCKET, SOCKET_PATH_BYTES_MAX, Scene};

/// Below this the standard library and a few handlers would not fit.
const MEMORY_MIN: u64 = 4 << 20;
const WORKERS_MAX: u32 = 1_024;
const CRASHES_MAX: u32 = 100;

pub(super) fn lua(file: &File, referred: BTreeSet<String>, scene: &mut Scene<'_, '_>) -> Lua {
    let lua = &file.lua;
    if lua.workers == 0 || lua.workers > WORKERS_MAX {
        let at = scene.at_keys(&["lua"], &["workers"]);
        scene.report.error(
            at,
            format!("`workers` is {}, not from 1 to {WORKERS_MAX}", lua.workers),
        );
    }
    if lua.memory.0 < MEMORY_MIN {
        let at = scene.at_keys(&["lua"], &["memory"]);
        scene.report.error(
            at,
            format!(
                "`memory` is {}, less than the 4 MiB that a VM needs",
                lua.memory
            ),
        );
    }
    if lua.handlers.as_os_str().is_empty() {
        let at = scene.at_keys(&["lua"], &["handlers"]);
        scene
            .report
            .error(at, "`handlers` is empty; write the folder of the Lua files");
    }
    templates_are_right("path", &lua.path, "?.lua", scene);
    templates_are_right("cpath", &lua.cpath, "?.so", scene);
    let env = EnvNames::of(&lua.env, referred).unwrap_or_else(|reason| {
        let at = scene.at_keys(&["lua"], &["env"]);
        scene.report.error(at, reason);
        EnvNames::default()
    });
    Lua {
        handlers: scene.folder.join(&lua.handlers),
        workers: lua.workers as usize,
        memory: lua.memory.0 as usize,
        path: templates(&lua.path, scene.folder),
        cpath: templates(&lua.cpath, scene.folder),
        env,
    }
}

/// Without the sign of the module's name a template finds one and the same file for every module. Lua allows that, and
/// its own `loadall.so` is one.
fn templates_are_right(key: &str, text: &str, example: &str, scene: &mut Scene<'_, '_>) {
    let entries = text.split(';').filter(|entry| !entry.is_empty());
    for bad in entries.filter(|entry| !entry.contains('?') && !entry.ends_with("loadall.so")) {
        let meant = bad.trim_end_matches('/');
        scene.report.warning(format!(
            "`[lua] {key}` has `{bad}` without a `?` for the name of the module; for a folder write `{meant}/{example}`"
        ));
    }
}

/// Lua's templates, relative ones taken from the folder of the configuration.
fn templates(text: &str, folder: &Path) -> String {
    let entries = text.split(';').filter(|entry| !entry.is_empty());
    let entries: Vec<String> = entries
        .map(|entry| folder.join(entry).display().to_string())
        .collect();
    entries.join(";")
}

pub(super) fn log(
    file: &File,
    scene: &mut Scene<'_, '_>,
    environment: &dyn Fn(&str) -> Option<String>,
) -> Log {
    let log = &file.log;
    if let Some(error) = super::level::error(&log.level) {
        let at = scene.at_keys(&["log"], &["level"]);
        scene.report.error(
            at,
            format!(
                "`level` is `{}`, not a level such as \"info\" or levels by target such as \"info,consumer=debug\": {error}",
                log.level
            ),
        );
    }
    if log.keep == 0 {
        let at = scene.at_keys(&["log"], &["keep"]);
        scene.report.error(
            at,
            "`keep` is 0; the minimum is 1; to write no file, remove `file`",
        );
    }
    if log
        .file
        .as_ref()
        .is_some_and(|file| file.file_name().is_none())
    {
        let at = scene.at_keys(&["log"], &["file"]);
        scene.report.error(at, "`file` is not the name of a file");
    }
    // Under the shipped unit the folder of the configuration can't be written, and this one is made for logs.
    let folder = of_service(environment, "LOGS_DIRECTORY").unwrap_or_else(|| scene.folder.into());
    Log {
        level: log.level.clone(),
        format: match log.format {
            file::LogFormat::Auto => LogFormat::Auto,
            file::LogFormat::Text => LogFormat::Text,
            file::LogFormat::Json => LogFormat::Json,
            file::LogFormat::Journald => LogFormat::Journald,
        },
        file: log.file.as_ref().map(|file| folder.join(file)),
        rotation: match log.rotation {
            file::Rotation::Daily => Rotation::Daily,
            file::Rotation::Hourly => Rotation::Hourly,
            file::Rotation::Minutely => Rotation::Minutely,
            file::Rotation::Never => Rotation::Never,
        },
        keep: log.keep as usize,
    }
}

pub(super) fn daemon(
    file: &File,
    scene: &mut Scene<'_, '_>,
    environment: &dyn Fn(&str) -> Option<String>,
) -> Daemon {
    let daemon = &file.daemon;
    if daemon.drain_deadline.0 == 0 {
        let at = scene.at_keys(&["daemon"], &["drainDeadline"]);
        scene.report.error(
            at,
            "`drainDeadline` is 0, so no call could finish; the default is 20 s",
        );
    }
    if daemon.crashes == 0 || daemon.crashes > CRASHES_MAX {
        let at = scene.at_keys(&["daemon"], &["crashes"]);
        scene.report.error(
            at,
            format!(
                "`crashes` is {}, not from 1 to {CRASHES_MAX}",
                daemon.crashes
            ),
        );
    }
    let folder = scene.folder;
    let or_beside = |path: Option<&PathBuf>, name: &str| match path {
        Some(path) => folder.join(path),
        None => of_service(environment, name)
            .unwrap_or_else(|| folder.join(crate::files::own_folder::BESIDE)),
    };
    let state_directory = or_beside(daemon.state_directory.as_ref(), "STATE_DIRECTORY");
    let runtime_directory = or_beside(daemon.runtime_directory.as_ref(), "RUNTIME_DIRECTORY");
    let bytes = runtime_directory.join(SOCKET).as_os_str().len();
    if bytes > SOCKET_PATH_BYTES_MAX {
        let at = scene.at_keys(&["daemon"], &["runtimeDirectory"]);
        scene.report.error(
            at,
            format!(
                "`runtimeDirectory` is `{}`, which is too long: the path of its control socket has {bytes} bytes, more than \
                 {SOCKET_PATH_BYTES_MAX}",
                runtime_directory.display()
            ),
        );
    }
    Daemon {
        drain_deadline: daemon.drain_deadline.duration(),
        state_directory,
        crashes_max: daemon.crashes,
        runtime_directory,
        watch: daemon.watch,
    }
}

/// `None` where no server is asked for.
pub(super) fn http(file: &File, scene: &mut Scene<'_, '_>) -> Option<Http> {
    let http = file.http.as_ref()?;
    if http.stall_after.0 == 0 {
        let at = scene.at_keys(&["http"], &["stallAfter"]);
        scene.report.error(
            at,
            "`stallAfter` is 0, so /ready would fail with every message; the default is 5 min",
        );
    }
    let Some(listen) = &http.listen else {
        // A table that is there for `[http.client]` alone means no server.
        let written = tree::table(scene.tree, &["http"]);
        let is_for_client = written
            .is_some_and(|table| table.contains_key("client") && !table.contains_key("stallAfter"));
        if !is_for_client && !scene.report.is_left_out("listen") {
            scene
                .report
                .warning("`[http]` has no `listen`: no server is started");
        }
        return None;
    };
    let Ok(listen) = listen.parse() else {
        let at = scene.at_keys(&["http"], &["listen"]);
        scene.report.error(
            at,
            format!(
                "`listen` is `{listen}`, not an IP address and a port such as \"127.0.0.1:9464\", \"0.0.0.0:9464\" or \"[::1]:9464\""
            ),
        );
        return None;
    };
    Some(Http {
        listen,
        stall_after: http.stall_after.duration(),
    })
}

/// A folder that systemd made for the service. It separates several by colons; the first one is ours.
fn of_service(environment: &dyn Fn(&str) -> Option<String>, name: &str) -> Option<PathBuf> {
    let list = environment(name)?;
    list.split(':')
        .next()
        .map(PathBuf::from)
        .filter(|path| path.is_absolute())
}
