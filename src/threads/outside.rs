//! The outside: a runtime of its own for work that handlers wait for.
//!
//! Its threads start with the first job, so a daemon whose handlers never wait outside has none. A job that is given
//! up gets a signal and ends by itself. After a grace period it is dropped, which is logged and counted.

use std::fmt;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::runtime::{Builder, Handle, Runtime};

use crate::log::log;
use crate::wait::{Answer, Cancel, Ends, Fault, Job, Reply};

/// Threads of the runtime: they mostly wait for sockets, and compute little.
const THREADS: usize = 2;
/// The grace period of a job that was told to end.
const GRACE: Duration = Duration::from_secs(5);

/// The number of jobs so far, by their end. `begun` is the sum of the others and of the open jobs.
#[derive(Debug, Default)]
struct Counts {
    begun: AtomicU64,
    answered: AtomicU64,
    told: AtomicU64,
    dropped: AtomicU64,
    lost: AtomicU64,
}

/// The counts at one time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Snapshot {
    /// Jobs that have begun and not ended.
    pub(crate) open: u64,
    pub(crate) begun: u64,
    pub(crate) answered: u64,
    /// Jobs that were told to end, and ended by themselves.
    pub(crate) told: u64,
    /// Jobs that were told to end, and were dropped after the grace period.
    pub(crate) dropped: u64,
    /// Jobs that ended by a panic.
    pub(crate) lost: u64,
}

/// The runtime and its counts.
pub(crate) struct Outside {
    runtime: Mutex<Option<Runtime>>,
    counts: Arc<Counts>,
    grace: Duration,
}

impl fmt::Debug for Outside {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outside")
            .field("counts", &self.counts)
            .finish_non_exhaustive()
    }
}

impl Default for Outside {
    fn default() -> Self {
        Self::with_grace(GRACE)
    }
}

impl Outside {
    fn with_grace(grace: Duration) -> Self {
        Self {
            runtime: Mutex::default(),
            counts: Arc::default(),
            grace,
        }
    }

    /// Starts the job; `reply` gets its answer. The job ends when the returned `Cancel` is dropped.
    pub(crate) fn begin(&self, job: Job, reply: Reply) -> Cancel {
        let (cancel, told) = Cancel::new();
        let handle = match self.handle() {
            Ok(handle) => handle,
            Err(error) => {
                let message = format!("no thread for `{}` can be started: {error}", job.name);
                reply.send(Answer::Outside(Err(Fault::new("busy", message))));
                return cancel;
            }
        };
        self.counts.begun.fetch_add(1, Ordering::Relaxed);
        let end = End {
            counts: Arc::clone(&self.counts),
            was: None,
        };
        let grace = self.grace;
        handle.spawn(async move {
            // The value is moved as a whole, so that a panic counts too.
            let mut end = end;
            let mut own = told.clone();
            let (name, ends) = (job.name, job.ends);
            let work = (job.start)(told);
            let over = async {
                own.told().await;
                if ends == Ends::Itself {
                    tokio::time::sleep(grace).await;
                }
            };
            let result = tokio::select! {
                biased;
                result = work => Some(result),
                () = over => None,
            };
            end.was = Some(match result {
                Some(_) if own.is_told() => {
                    reply.forget();
                    Was::Told
                }
                None if ends == Ends::ByDrop => {
                    reply.forget();
                    Was::Told
                }
                Some(result) => {
                    reply.send(Answer::Outside(result));
                    Was::Answered
                }
                None => {
                    log!(
                        warn,
                        lua,
                        job = name,
                        "a job did not end within its grace period: it is dropped"
                    );
                    reply.forget();
                    Was::Dropped
                }
            });
        });
        cancel
    }

    fn handle(&self) -> io::Result<Handle> {
        let mut runtime = self.runtime.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(runtime) = &*runtime {
            return Ok(runtime.handle().clone());
        }
        let made = Builder::new_multi_thread()
            .worker_threads(THREADS)
            .thread_name("outside")
            .enable_all()
            .build()?;
        Ok(runtime.insert(made).handle().clone())
    }

    pub(crate) fn snapshot(&self) -> Snapshot {
        let read = |count: &AtomicU64| count.load(Ordering::Acquire);
        // Ends are read before beginnings: a job that ends between two reads is never counted as ended but not begun.
        let (answered, told, dropped, lost) = (
            read(&self.counts.answered),
            read(&self.counts.told),
            read(&self.counts.dropped),
            read(&self.counts.lost),
        );
        let begun = read(&self.counts.begun);
        Snapshot {
            open: begun.saturating_sub(answered + told + dropped + lost),
            begun,
            answered,
            told,
            dropped,
            lost,
        }
    }

    /// Waits until every job has ended, or until the deadline; their calls have been given up. Returns whether all
    /// have ended.
    pub(crate) fn drain(&self, deadline: Instant) -> bool {
        while self.snapshot().open > 0 {
            if Instant::now() >= deadline {
                return false;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        true
    }
}

impl Drop for Outside {
    fn drop(&mut self) {
        let runtime = self
            .runtime
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(runtime) = runtime.take() {
            // The last owner may be a task of another runtime, in which nothing may block.
            runtime.shutdown_background();
        }
    }
}

#[derive(Clone, Copy)]
enum Was {
    Answered,
    Told,
    Dropped,
}

/// Counts the end of one job, even if it panics.
struct End {
    counts: Arc<Counts>,
    was: Option<Was>,
}

impl Drop for End {
    fn drop(&mut self) {
        let count = match self.was {
            Some(Was::Answered) => &self.counts.answered,
            Some(Was::Told) => &self.counts.told,
            Some(Was::Dropped) => &self.counts.dropped,
            None => &self.counts.lost,
        };
        count.fetch_add(1, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::sync::mpsc::{self, Receiver};

    use super::*;
    use crate::wait::{Told, Value};

    const SOON: Duration = Duration::from_secs(10);

    fn job<F>(start: impl FnOnce(Told) -> F + Send + 'static) -> Job
    where
        F: Future<Output = Result<Value, Fault>> + Send + 'static,
    {
        Job {
            name: "test",
            start: Box::new(|told| Box::pin(start(told))),
            ends: Ends::Itself,
        }
    }

    fn reply() -> (Reply, Receiver<Answer>) {
        let (sender, receiver) = mpsc::channel();
        let give = move |answer| sender.send(answer).unwrap();
        (Reply::new(give), receiver)
    }

    fn drained(outside: &Outside) -> Snapshot {
        assert!(outside.drain(Instant::now() + SOON));
        outside.snapshot()
    }

    #[test]
    fn a_job_answers() {
        let outside = Outside::default();
        let (reply, answers) = reply();
        let _cancel = outside.begin(job(|_| async { Ok(Value::Integer(7)) }), reply);
        let answer = answers.recv_timeout(SOON).unwrap();
        assert!(matches!(answer, Answer::Outside(Ok(Value::Integer(7)))));
        assert_eq!(drained(&outside).answered, 1);
    }

    #[test]
    fn a_job_that_is_given_up_ends_in_its_own_way_and_answers_nothing() {
        let outside = Outside::default();
        let (reply, answers) = reply();
        let (ended, end) = mpsc::channel();
        let work = job(move |mut told| async move {
            told.told().await;
            ended.send(()).unwrap();
            Ok(Value::Nil)
        });
        drop(outside.begin(work, reply));
        end.recv_timeout(SOON).unwrap();
        assert_eq!(drained(&outside).told, 1);
        assert!(answers.recv().is_err(), "nobody is answered");
    }

    #[test]
    fn a_job_that_does_not_listen_is_dropped_after_the_grace_period() {
        let outside = Outside::with_grace(Duration::from_millis(20));
        let (reply, answers) = reply();
        let work = job(|_| async {
            std::future::pending::<()>().await;
            Ok(Value::Nil)
        });
        drop(outside.begin(work, reply));
        assert_eq!(drained(&outside).dropped, 1);
        assert!(answers.recv().is_err());
    }

    #[test]
    fn a_job_that_panics_is_answered_as_lost() {
        let outside = Outside::default();
        let (reply, answers) = reply();
        let work = job(|_| async { panic!("a defect") });
        let _cancel = outside.begin(work, reply);
        assert!(matches!(answers.recv_timeout(SOON), Ok(Answer::Lost)));
        assert_eq!(drained(&outside).lost, 1);
    }
}
