//! Producers whose answers the test gives.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use tokio::sync::oneshot;

use crate::config::Config;
use crate::lua::ProducerSource;
use crate::message::Outgoing;
use crate::wait::Fault;
use crate::wait::send::{
    Acknowledgements, Emission, Emitted, Few, Request, Run, Senders, Sending, Troubled,
};

/// Takes the answer to an emission that went ahead.
pub(super) type Answer = Box<dyn FnOnce(Result<(), Fault>) + Send>;
/// The records of an emission that went ahead, and its answer.
pub(super) type Ahead = (String, Answer);
/// The same of one that its lane waits for.
pub(super) type Waited = (String, oneshot::Sender<Result<(), Fault>>);

#[derive(Default)]
pub(super) struct Script {
    pub(super) ahead: Mutex<Vec<Ahead>>,
    pub(super) waited: Mutex<Vec<Waited>>,
    /// Nothing goes ahead.
    pub(super) is_unready: Mutex<bool>,
    /// How often records were taken back.
    pub(super) taken_back: Mutex<usize>,
    /// Emissions that leave by the next flush.
    pub(super) unsent: AtomicUsize,
}

impl Script {
    pub(super) fn has_left(&self) -> bool {
        self.unsent.load(Ordering::Relaxed) == 0
    }
}

impl std::fmt::Debug for Script {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Script")
    }
}

#[derive(Clone, Debug, Default)]
pub(super) struct Scripted(pub(super) Arc<Script>);

pub(super) fn values(requests: &[Request]) -> String {
    let records = requests.iter().flat_map(|request| &request.records);
    let value = |record: &Outgoing| {
        let value = record.value.clone().unwrap_or_default();
        String::from_utf8(value).unwrap()
    };
    records.map(value).collect::<Vec<_>>().join(" ")
}

impl Senders for Scripted {
    fn fit(&self, _: &[Request]) -> bool {
        true
    }

    fn look_at_topics(&self, _: &[Request], _: Troubled) -> Emission {
        Box::pin(async { Ok(()) })
    }

    fn send(&self, _: Request) -> Result<Sending, Fault> {
        Err(Fault::new("internal", "nothing is sent"))
    }

    fn may_emit(&self, _: &Request) -> Result<(), Fault> {
        Ok(())
    }

    fn emit_now(&self, emitted: &Arc<Emitted>, first: u64, to: &Arc<dyn Acknowledgements>) -> bool {
        let requests = &emitted.requests;
        if *self.0.is_unready.lock().unwrap() {
            return false;
        }
        let (to, count) = (
            to.clone(),
            requests.iter().map(|one| one.records.len() as u64),
        );
        let run = Run {
            first,
            count: count.sum(),
        };
        let then = move |result: Result<(), Fault>| match result {
            Ok(()) => to.answered(vec![run], Vec::new()),
            Err(fault) => to.answered(Vec::new(), vec![(first, fault)]),
        };
        let mut ahead = self.0.ahead.lock().unwrap();
        ahead.push((values(requests), Box::new(then)));
        self.0.unsent.fetch_add(1, Ordering::Relaxed);
        true
    }

    fn flush(&self) {
        self.0.unsent.store(0, Ordering::Relaxed);
    }

    fn take_back(&self) {
        assert!(self.0.has_left(), "what is taken back has left");
        *self.0.taken_back.lock().unwrap() += 1;
    }

    fn emit(&self, requests: Few<Request>, _: Troubled) -> Emission {
        let (answer, told) = oneshot::channel();
        let mut waited = self.0.waited.lock().unwrap();
        waited.push((values(&requests), answer));
        Box::pin(async move { told.await.unwrap_or(Ok(())) })
    }
}

impl ProducerSource for Scripted {
    fn open(&self, _: &Arc<Config>) -> Arc<dyn Senders> {
        Arc::new(self.clone())
    }
}
