//! `tide.redis`: its table of methods, its page, and its object.

use std::fs;
use std::path::Path;

use crate::lua::FailureKind;
use crate::lua::api::tide::redis::ROWS;
use crate::lua::tests::*;
use crate::wait::redis::{Prepared, Redis, Request, Work};
use crate::wait::{Cancel, Fault, Value};

#[derive(Debug)]
struct Source;

#[derive(Debug)]
struct Echoing;

impl crate::lua::RedisSource for Source {
    fn open(&self, _: &Arc<Config>) -> Arc<dyn Redis> {
        Arc::new(Echoing)
    }
}

/// Replies with the words of a command, but for some.
impl Redis for Echoing {
    fn request(&self, request: Request) -> Result<Prepared, Fault> {
        let Work::One(command) = request.work else {
            return Err(Fault::new("invalid", "one command"));
        };
        let words = command.into_iter().map(|word| Value::Bytes(word.into()));
        let words: Vec<_> = words.collect();
        let reply = match words.first().and_then(Value::text) {
            Some("EXISTS") => Ok(Value::Integer(0)),
            Some("PING") => Err(Fault {
                kind: "unreachable",
                message: "LOADING".to_owned(),
                fields: vec![("code", Value::Bytes(b"LOADING".as_slice().into()))],
            }),
            _ => Ok(Value::Table((1..).map(Value::Integer).zip(words).collect())),
        };
        Ok(Prepared {
            about: "A".to_owned(),
            requesting: Box::pin(async move { reply }),
        })
    }
}

fn run(body: &str) -> Step {
    let app = App::default().with_redis(Arc::new(Source));
    let mut f = handler(body)
        .build_with(&Arc::new(app))
        .unwrap_or_else(|error| panic!("{error}"));
    let mut step = f.call(&OwnedRecord::default());
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    while let Step::Waits(id, mut waits) = step {
        let (wait, Wait::Outside(job)) = waits.begun.remove(0) else {
            panic!("another wait than a command");
        };
        let (_cancel, told) = Cancel::new();
        let answer = Answer::Outside(runtime.block_on((job.start)(told)));
        step = f.vm.resume(&f.pulse, id, wait, answer);
    }
    step
}

#[test]
fn the_page_has_every_method_and_no_other() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/reference/lua/tide.redis.md");
    let page = fs::read_to_string(path).unwrap();
    let (_, page) = page.split_once("## redis:get and other commands").unwrap();
    let (page, _) = page.split_once("\n## ").unwrap();
    let written: Vec<_> = page
        .lines()
        .filter(|line| line.starts_with("| `redis:"))
        .collect();
    for row in ROWS {
        let method = &row.method;
        let (name, parameters, returns) = (method.name, method.parameters.join(", "), row.returns);
        let line = format!("| `redis:{name}({parameters})` | `{returns}` |");
        assert!(written.contains(&&*line), "the page lacks {line}");
    }
    assert_eq!(written.len(), ROWS.len());
    let names: Vec<_> = ROWS.iter().map(|row| row.method.name).collect();
    assert!(names.is_sorted(), "{names:?}");
    let definitions = crate::lua::definitions();
    for name in names {
        assert!(definitions.contains(&format!("---@field {name} fun(self: tide.Redis")));
    }
}

#[test]
fn a_method_is_called_by_a_colon_or_a_dot_and_made_once() {
    let step = run("local cache = tide.redis('cache')
        assert(cache == tide.redis('cache'))
        local got = cache:set('k', 1, 'EX', 60)
        assert(table.concat(got, ' ') == 'SET k 1 EX 60', table.concat(got, ' '))
        assert(table.concat(cache.get('k'), ' ') == 'GET k')
        assert(cache:exists('k') == false)
        assert(cache:hgetall('k').HGETALL == 'k')");
    assert!(matches!(step, Step::Done), "{step:?}");
}

#[test]
fn an_error_has_its_code_and_one_of_infrastructure_is_no_failure_of_the_message() {
    let step = run(
        "local ok, err = pcall(function() tide.redis('cache'):ping() end)
        assert(err.kind == 'unreachable' and err.code == 'LOADING')
        tide.redis('cache'):ping()",
    );
    assert_eq!(failure(step).kind, FailureKind::Away);
}
