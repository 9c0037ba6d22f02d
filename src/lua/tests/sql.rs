//! `tide.sql`: its page, its objects, and what a transaction is told at each end of its function.

use std::fs;
use std::path::Path;
use std::sync::Mutex;

use crate::lua::FailureKind;
use crate::lua::tests::*;
use crate::wait::sql::{Begin, Databases, Identity, Prepared, Request, Transaction, Work};
use crate::wait::{Cancel, Fault, Value};

/// What the databases were told, in order.
type Told = Arc<Mutex<Vec<String>>>;

#[derive(Debug, Default, Clone)]
struct Fake(Told);

#[derive(Debug)]
struct FakeTransaction {
    told: Told,
    identity: Option<Identity>,
    is_over: Mutex<bool>,
}

impl Fake {
    fn tell(&self, what: impl Into<String>) {
        self.0.lock().unwrap().push(what.into());
    }

    fn told(&self) -> Vec<String> {
        std::mem::take(&mut *self.0.lock().unwrap())
    }
}

impl crate::lua::SqlSource for Fake {
    fn open(&self, _: &Arc<Config>) -> Arc<dyn Databases> {
        Arc::new(self.clone())
    }
}

fn prepared(answer: Result<Value, Fault>) -> Prepared {
    Prepared {
        about: "main".to_owned(),
        requesting: Box::pin(async move { answer }),
    }
}

fn answer(told: &Told, place: &str, request: Request) -> Prepared {
    let text = match request.work {
        Work::Run(statement, _) => statement.text,
        Work::Insert(insert) => format!("insert {}", insert.rows.len()),
    };
    let within = if request.within_transaction {
        " within"
    } else {
        ""
    };
    told.lock().unwrap().push(format!("{place} {text}{within}"));
    prepared(match text.as_str() {
        "conflict" => Err(Fault {
            kind: "conflict",
            message: "duplicate".to_owned(),
            fields: vec![
                ("sqlstate", Value::Bytes(b"23505".as_slice().into())),
                ("constraint", Value::Bytes(b"t_pkey".as_slice().into())),
            ],
        }),
        "away" => Err(Fault::new("unreachable", "nobody")),
        _ => Ok(Value::Bytes(text.into_bytes().into())),
    })
}

impl Databases for Fake {
    fn request(&self, database: &str, request: Request) -> Result<Prepared, Fault> {
        Ok(answer(&self.0, database, request))
    }

    fn transaction(&self, database: &str, begin: Begin) -> Result<Arc<dyn Transaction>, Fault> {
        self.tell(format!("open {database}"));
        Ok(Arc::new(FakeTransaction {
            told: self.0.clone(),
            identity: begin.identity,
            is_over: Mutex::default(),
        }))
    }
}

impl FakeTransaction {
    fn tell(&self, what: &str) {
        self.told.lock().unwrap().push(what.to_owned());
    }
}

/// The first `once` of a call has not run before, and the second one has.
impl Transaction for FakeTransaction {
    fn begin(&self) -> Prepared {
        let identity = match &self.identity {
            Some(identity) => {
                self.tell(&format!("scope {} {}", identity.scope, identity.offset));
                &*identity.text
            }
            None => "",
        };
        self.tell(&format!("begin {identity}"));
        prepared(Ok(Value::Boolean(!identity.ends_with("/2"))))
    }

    fn request(&self, request: Request) -> Result<Prepared, Fault> {
        Ok(answer(&self.told, "tx", request))
    }

    fn commit(&self) -> Prepared {
        self.tell("commit");
        *self.is_over.lock().unwrap() = true;
        prepared(Ok(Value::Nil))
    }

    fn end(&self) {
        if !std::mem::replace(&mut *self.is_over.lock().unwrap(), true) {
            self.tell("rollback");
        }
    }
}

/// Answers every wait until the call ends. A sleep is answered, too.
fn run(fake: &Fake, body: &str) -> Step {
    let (mut fixture, step) = begun(fake, body);
    finished(&mut fixture, step)
}

fn begun(fake: &Fake, body: &str) -> (Fixture, Step) {
    let app = App::default().with_sql(Arc::new(fake.clone()));
    let body = format!("local db = tide.sql('main')\n{body}");
    let mut fixture = handler(&body)
        .build_with(&Arc::new(app))
        .unwrap_or_else(|error| panic!("{error}"));
    let step = fixture.call(&OwnedRecord::default());
    (fixture, step)
}

fn finished(fixture: &mut Fixture, mut step: Step) -> Step {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let mut waiting = Vec::new();
    while let Step::Waits(id, mut waits) = step {
        waiting.append(&mut waits.begun);
        let (wait, what) = waiting.remove(0);
        let answer = match what {
            Wait::Outside(job) => {
                let (_cancel, told) = Cancel::new();
                Answer::Outside(runtime.block_on((job.start)(told)))
            }
            Wait::Sleep(_) => Answer::Slept,
            other => panic!("another wait: {other:?}"),
        };
        step = fixture.vm.resume(&fixture.pulse, id, wait, answer);
    }
    step
}

#[track_caller]
fn passes_with(fake: &Fake, body: &str) {
    let step = run(fake, body);
    assert!(matches!(step, Step::Done), "{step:?}");
}

#[test]
fn the_page_has_every_function() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/reference/lua/tide.sql.md");
    let page = fs::read_to_string(path).unwrap();
    let definitions = crate::lua::definitions();
    for name in crate::lua::api::tide::sql::METHODS {
        assert!(page.contains(&format!("\n## sql:{name}\n")), "{name}");
        assert!(page.contains(&format!("sql:{name}(")), "{name}");
        let field = format!("---@field {name} fun(self: tide.Sql, ");
        assert!(definitions.contains(&field), "{name}");
    }
    assert_eq!(page.matches("\n## sql:").count(), 6);
}

#[test]
fn a_database_is_made_once_and_its_errors_have_their_fields() {
    let fake = Fake::default();
    passes_with(
        &fake,
        "assert(db == tide.sql('main'))
        assert(db:query('a') == 'a' and db.one('b') == 'b' and db:execute('c') == 'c')
        db:insert('t', { { id = 1 }, { id = 2 } })
        local ok, err = pcall(db.query, db, 'conflict')
        assert(not ok and err.kind == 'conflict' and err.sqlstate == '23505' and err.constraint == 't_pkey')
        ok, err = pcall(db.query, db)
        assert(err.kind == 'invalid' and tostring(err):find('the statement is nil', 1, true), tostring(err))
        ok, err = pcall(function() return db.querry end)
        assert(err:find('did you mean `query`?', 1, true), err)
        ok, err = pcall(tide.sql, 'mian')
        assert(err:find('no table `[sql.mian]`, did you mean `main`?', 1, true), err)",
    );
    assert_eq!(
        fake.told(),
        [
            "main a",
            "main b",
            "main c",
            "main insert 2",
            "main conflict"
        ]
    );
    let away = run(&fake, "db:query('away')");
    assert_eq!(failure(away).kind, FailureKind::Away);
}

#[test]
fn a_transaction_commits_behind_the_return_of_its_function() {
    let fake = Fake::default();
    passes_with(
        &fake,
        "local a, b, c = db:transaction(function(tx)
          assert(tx:query('x') == 'x')
          tide.sleep(1)
          tx.insert('t', { id = 1 })
          return 1, nil, 3
        end, { isolation = 'serializable' })
        assert(a == 1 and b == nil and c == 3)
        assert(select('#', db.transaction(function() end)) == 0)",
    );
    let expected = [
        "open main",
        "begin ",
        "tx x",
        "tx insert 1",
        "commit",
        "open main",
        "begin ",
        "commit",
    ];
    assert_eq!(fake.told(), expected);
}

#[test]
fn an_error_of_its_function_rolls_back_and_is_raised() {
    let fake = Fake::default();
    passes_with(
        &fake,
        "local kept
        local ok, err = pcall(db.transaction, db, function(tx) kept = tx tx:query('x') error('mine', 0) end)
        assert(not ok and err == 'mine')
        ok, err = pcall(kept.query, kept, 'late')
        assert(err.kind == 'invalid' and tostring(err):find('the transaction has ended', 1, true), tostring(err))
        ok, err = pcall(db.transaction, db, function(tx) tx:query('conflict') end)
        assert(err.constraint == 't_pkey')
        ok, err = pcall(db.transaction, db)
        assert(tostring(err):find('takes a function, which gets `tx`, not nil', 1, true), tostring(err))
        ok, err = pcall(db.transaction, db, print, { readonly = true })
        assert(tostring(err):find('did you mean `readOnly`?', 1, true), tostring(err))
        ok, err = pcall(function() db:transaction(function(tx) tx:commit() end) end)
        assert(tostring(err):find('`tx` has no field `commit`', 1, true), tostring(err))",
    );
    let expected = [
        "open main",
        "begin ",
        "tx x",
        "rollback",
        "open main",
        "begin ",
        "tx conflict",
        "rollback",
        "open main",
        "begin ",
        "rollback",
    ];
    assert_eq!(fake.told(), expected);
    let failed = failure(run(&fake, "db:transaction(function(tx) error('mine') end)"));
    assert!(
        failed.message.contains("h.lua:3: mine"),
        "{}",
        failed.message
    );
    assert_eq!(fake.told().last().unwrap(), "rollback");
    // A verdict is no error, and rolls back, too.
    let skipped = run(
        &fake,
        "db:transaction(function(tx) tx:query('x') ctx.skip('no') end)",
    );
    assert!(
        !matches!(skipped, Step::Done | Step::Failed(_)),
        "{skipped:?}"
    );
    assert_eq!(fake.told(), ["open main", "begin ", "tx x", "rollback"]);
}

#[test]
fn a_call_that_is_given_up_rolls_back_at_once() {
    let fake = Fake::default();
    let body = "local inner = coroutine.wrap(function()
          db:transaction(function(tx)
            tide.parallel{ function() tx:query('x') end, function() tide.sleep(1000) end }
          end)
        end)
        inner()";
    let (mut fixture, step) = begun(&fake, body);
    let Step::Waits(id, waits) = step else {
        panic!("{step:?}");
    };
    // It has begun; then the call ends where it waits.
    let (wait, Wait::Outside(job)) = waits.begun.into_iter().next().unwrap() else {
        panic!("another wait");
    };
    let (_cancel, told) = Cancel::new();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let answer = Answer::Outside(runtime.block_on((job.start)(told)));
    let step = fixture.vm.resume(&fixture.pulse, id, wait, answer);
    let Step::Waits(id, waits) = step else {
        panic!("{step:?}");
    };
    assert_eq!(waits.begun.len(), 2);
    fixture.vm.cancel(id);
    assert_eq!(fake.told(), ["open main", "begin ", "tx x", "rollback"]);
    // So does the end of the VM.
    let (fixture, step) = begun(&fake, "db:transaction(function(tx) tide.sleep(1000) end)");
    assert!(matches!(step, Step::Waits(..)));
    drop(fixture);
    assert_eq!(fake.told(), ["open main", "begin ", "rollback"]);
}

#[test]
fn a_body_of_once_has_its_own_number_and_is_passed_over() {
    let fake = Fake::default();
    passes_with(
        &fake,
        "local ran, a, b = db:once(function(tx) tx:query('x') return 1, 2 end)
        assert(ran == true and a == 1 and b == 2)
        db:query('between')
        local ran, a = db:once(function(tx) error('not again') end)
        assert(ran == false and a == nil)
        tide.parallel{ function() assert(db:once(function(tx) end)) end }",
    );
    let told = fake.told();
    let begun: Vec<_> = told.iter().filter(|one| one.starts_with("begin")).collect();
    let ends: Vec<_> = begun
        .iter()
        .map(|one| one.rsplit('/').next().unwrap())
        .collect();
    assert_eq!(ends, ["1", "2", "1.1.1"], "{told:?}");
    assert!(begun[0].starts_with("begin g/h/orders/3/0/"), "{told:?}");
    assert!(
        told.contains(&"scope g/h/orders/3 0".to_owned()),
        "{told:?}"
    );
    assert_eq!(told.iter().filter(|one| *one == "commit").count(), 2);
    assert_eq!(told.iter().filter(|one| *one == "rollback").count(), 1);
}

#[test]
fn a_statement_beside_the_transaction_of_its_call_is_marked() {
    let fake = Fake::default();
    passes_with(
        &fake,
        "db:transaction(function(tx) db:query('beside') end)
        db:query('behind')",
    );
    let told = fake.told();
    assert!(told.contains(&"main beside within".to_owned()), "{told:?}");
    assert!(told.contains(&"main behind".to_owned()), "{told:?}");
}

#[test]
fn a_transaction_waits_only_where_a_call_may() {
    let fake = Fake::default();
    passes_with(
        &fake,
        "local ok, err = pcall(table.sort, { 1, 2 }, function() db:transaction(function() end) end)
        assert(tostring(err):find('`sql:transaction` waits, which cannot be done inside a callback', 1, true), tostring(err))
        local ok, err = pcall(db.transaction, db, function(tx) table.sort({ 1, 2 }, function() tx:query('x') end) end)
        assert(tostring(err):find('`sql:query` waits', 1, true), tostring(err))",
    );
    assert_eq!(fake.told(), ["open main", "begin ", "rollback"]);
}
