//! The version with its revision, and symbols: C modules that handlers load find Lua's API in the program itself.
//!
//! Lua's symbols only: were OpenSSL's or librdkafka's exported too, a module that brings its own would get ours.

use std::path::Path;
use std::process::Command;

fn main() {
    println!("cargo:rustc-env=MOONTIDE_VERSION={}", version());
    println!("cargo:rerun-if-changed=build.rs");
    for pattern in ["lua_*", "luaL_*", "luaopen_*"] {
        println!("cargo:rustc-link-arg=-Wl,--export-dynamic-symbol={pattern}");
    }
}

/// `0.1.0 (8c79fa1f7b7c)`; a source without git has the version alone.
fn version() -> String {
    let version = env!("CARGO_PKG_VERSION");
    match revision() {
        Some(revision) => format!("{version} ({revision})"),
        None => version.to_owned(),
    }
}

fn revision() -> Option<String> {
    // An unpacked source may lie in another project's repository.
    let top = git(&["rev-parse", "--show-toplevel"])?;
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).canonicalize().ok()?;
    if Path::new(&top).canonicalize().ok()? != here {
        return None;
    }
    // A build for development is not made anew for each commit.
    if std::env::var("PROFILE").is_ok_and(|profile| profile == "release") {
        for name in ["HEAD", "logs/HEAD"] {
            if let Some(path) = git(&["rev-parse", "--git-path", name]) {
                println!("cargo:rerun-if-changed={path}");
            }
        }
    }
    git(&["rev-parse", "--short=12", "HEAD"])
}

fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let text = text.trim();
    (output.status.success() && !text.is_empty()).then(|| text.to_owned())
}
