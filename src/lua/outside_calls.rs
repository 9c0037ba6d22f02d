//! The calls of functions that wait outside, over all VMs: those under way, and the counts of those that have ended.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::clock::now_ms;
use crate::rules::spread::Map;
use crate::telemetry::metrics::OutsideSnapshot;
use crate::telemetry::status::OutsideWait;
use crate::wait::{Fault, Job, Value};

/// The most kinds of waits that the status has, the longest first.
const SHOWN_MAX: usize = 50;

#[derive(Debug, Default)]
pub(crate) struct OutsideCalls(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    last: u64,
    open: Map<u64, Open>,
    ended: BTreeMap<&'static str, OutsideSnapshot>,
}

/// A call under way.
#[derive(Debug)]
struct Open {
    what: String,
    listener: Option<String>,
    since_ms: i64,
}

/// Counts one call, however it ends. A drop before its answer counts one that was given up.
struct Watched {
    calls: Arc<OutsideCalls>,
    number: u64,
    name: &'static str,
    began: Instant,
    result: &'static str,
}

impl Watched {
    fn answered(&mut self, answer: &Result<Value, Fault>) {
        self.result = answer.as_ref().err().map_or("ok", |fault| fault.kind);
    }
}

impl OutsideCalls {
    /// The same job, which counts from its start on. `about` says more than its name does.
    pub(super) fn watched(
        self: &Arc<Self>,
        job: Job,
        about: Option<String>,
        listener: Option<String>,
    ) -> Job {
        let calls = Arc::clone(self);
        let Job { name, start, ends } = job;
        Job {
            name,
            ends,
            start: Box::new(move |told| {
                let mut watched = calls.begin(name, about, listener);
                let work = start(told.clone());
                Box::pin(async move {
                    let answer = work.await;
                    if !told.is_told() {
                        watched.answered(&answer);
                    }
                    answer
                })
            }),
        }
    }

    fn begin(
        self: &Arc<Self>,
        name: &'static str,
        about: Option<String>,
        listener: Option<String>,
    ) -> Watched {
        let what = match about {
            // `http GET api.example.com`: the module, and what the module says.
            Some(about) => {
                let module = name.split('.').next().unwrap_or(name);
                format!("{module} {about}")
            }
            None => name.to_owned(),
        };
        let mut state = self.lock();
        state.last += 1;
        let number = state.last;
        let open = Open {
            what,
            listener,
            since_ms: now_ms(),
        };
        state.open.insert(number, open);
        Watched {
            calls: Arc::clone(self),
            number,
            name,
            began: Instant::now(),
            result: "givenUp",
        }
    }

    /// The calls under way, by listener and by what they wait for. The one that has waited longest comes first.
    pub(crate) fn waits(&self) -> Vec<OutsideWait> {
        let mut found: HashMap<(Option<String>, String), OutsideWait> = HashMap::new();
        for open in self.lock().open.values() {
            let key = (open.listener.clone(), open.what.clone());
            let one = found.entry(key).or_insert_with(|| OutsideWait {
                listener: open.listener.clone(),
                what: open.what.clone(),
                calls: 0,
                since: open.since_ms,
            });
            one.calls += 1;
            one.since = one.since.min(open.since_ms);
        }
        let mut waits: Vec<_> = found.into_values().collect();
        waits.sort_by(|one, other| {
            let key = |one: &OutsideWait| (one.since, one.listener.clone(), one.what.clone());
            key(one).cmp(&key(other))
        });
        waits.truncate(SHOWN_MAX);
        waits
    }

    /// The counts by function.
    pub(crate) fn snapshot(&self) -> Vec<OutsideSnapshot> {
        self.lock().ended.values().cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        let took = self.began.elapsed();
        let mut state = self.calls.lock();
        state.open.remove(&self.number);
        let counts = state
            .ended
            .entry(self.name)
            .or_insert_with(|| OutsideSnapshot {
                function: self.name,
                ..OutsideSnapshot::default()
            });
        *counts.results.entry(self.result).or_default() += 1;
        counts.calls.record(took);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::threads::outside::Outside;
    use crate::wait::{Answer, Ends, Reply};

    fn job(answer: Option<Result<Value, Fault>>) -> Job {
        Job {
            name: "echo.later",
            start: Box::new(|mut told| {
                Box::pin(async move {
                    if let Some(answer) = answer {
                        return answer;
                    }
                    told.told().await;
                    Ok(Value::Nil)
                })
            }),
            ends: Ends::Itself,
        }
    }

    #[test]
    fn a_call_shows_while_it_waits_and_counts_by_its_end() {
        let (outside, calls) = (Outside::default(), Arc::new(OutsideCalls::default()));
        let (sender, answers) = std::sync::mpsc::channel();
        let begin = |answer, about: Option<&str>| {
            let sender = sender.clone();
            let reply = Reply::new(move |answer: Answer| _ = sender.send(answer));
            let about = about.map(str::to_owned);
            let job = calls.watched(job(answer), about, Some("orders".to_owned()));
            outside.begin(job, reply)
        };
        let _ok = begin(Some(Ok(Value::Nil)), None);
        answers.recv().unwrap();
        let _late = begin(Some(Err(Fault::new("timeout", "late"))), None);
        answers.recv().unwrap();
        let waiting = [begin(None, Some("GET a")), begin(None, Some("GET a"))];
        while calls.waits().first().map(|one| one.calls) != Some(2) {
            std::thread::yield_now();
        }
        let found = calls.waits();
        assert_eq!((found.len(), found[0].what.as_str()), (1, "echo GET a"));
        assert_eq!(found[0].listener.as_deref(), Some("orders"));
        drop(waiting);
        assert!(outside.drain(Instant::now() + std::time::Duration::from_secs(10)));
        assert!(calls.waits().is_empty());
        let counts = calls.snapshot();
        let results: Vec<_> = counts[0]
            .results
            .iter()
            .map(|(word, n)| (*word, *n))
            .collect();
        assert_eq!(results, [("givenUp", 2), ("ok", 1), ("timeout", 1)]);
        assert_eq!(counts[0].calls.count(), 4);
    }
}
