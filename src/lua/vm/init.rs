//! The functions of init.lua. Each runs to its end on the thread that builds the VM, and that thread serves its waits
//! itself.

#![expect(unsafe_code, reason = "the hot path is Lua's C API")]

use std::collections::BTreeMap;
use std::ffi::c_int;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use mlua::ffi;

use super::Vm;
use super::beat::Pulse;
use super::failure;
use super::last_words::About;
use super::run::Ended;
use crate::lua::{CallId, Failure, FailureKind};
use crate::threads::outside::Outside;
use crate::wait::{Answer, Cancel, Reply, Wait, WaitId, Waits};

/// The limit of a function of init.lua, its waits included: it delays the start, a reload, or a worker that gets a
/// new VM.
const HOOK_MAX: Duration = Duration::from_secs(10);

impl Vm {
    /// Runs the function on the stack of a new coroutine to its end; its waits block this thread.
    pub(in crate::lua) fn run_hook(
        &mut self,
        pulse: &Pulse,
        function: c_int,
        limit: Duration,
    ) -> Result<(), Failure> {
        let about = About {
            listener: "init.lua",
            topic: "",
            partition: -1,
            offset: -1,
            timestamp_ms: -1,
        };
        let Some(coroutine) = self.coroutine(&about) else {
            return Err(self.out_of_memory());
        };
        self.last_call += 1;
        let id = CallId(self.last_call);
        // SAFETY: the coroutine is empty and has room; the push allocates nothing.
        unsafe { ffi::lua_rawgeti(coroutine.state, ffi::LUA_REGISTRYINDEX, self.hook.into()) };
        self.shared.hand_over_hook(function, None);
        let mut served = Served::new(Instant::now() + HOOK_MAX);
        loop {
            match self.run(pulse, id, coroutine, limit, None, &about) {
                Ended::Done => return Ok(()),
                Ended::Waits(waits) => {
                    served.begin(waits, &self.shared.app.outside);
                    let Some((wait, answer)) = served.next() else {
                        // SAFETY: reads the stack of a coroutine that is suspended.
                        let place = unsafe { failure::position(coroutine.state) };
                        self.drop_coroutine(coroutine, id);
                        let words = failure::too_long_a_wait(place, HOOK_MAX);
                        return Err(words.of(FailureKind::Raised));
                    };
                    self.answer(wait, answer);
                }
                Ended::Asked(verdict) => return Err(Failure::of_verdict(&verdict)),
                Ended::Failed(kind, words) => return Err(words.of(kind)),
            }
        }
    }
}

/// The open waits of one function.
struct Served {
    deadline: Instant,
    /// Open waits, by the time at which they end.
    sleeps: BTreeMap<(Instant, u64), WaitId>,
    outside: Vec<(WaitId, Cancel)>,
    sender: Sender<(WaitId, Answer)>,
    answers: Receiver<(WaitId, Answer)>,
}

impl Served {
    fn new(deadline: Instant) -> Self {
        let (sender, answers) = mpsc::channel();
        Self {
            deadline,
            sleeps: BTreeMap::new(),
            outside: Vec::new(),
            sender,
            answers,
        }
    }

    fn begin(&mut self, waits: Waits, outside: &Outside) {
        let Waits { begun, given_up } = waits;
        self.outside.retain(|(id, _)| !given_up.contains(id));
        self.sleeps.retain(|_, id| !given_up.contains(id));
        for (id, wait) in begun {
            let sender = self.sender.clone();
            // The receiver is gone if the function was given up.
            let reply = Reply::new(move |answer| _ = sender.send((id, answer)));
            match wait {
                Wait::Sleep(duration) => {
                    reply.forget();
                    let due = Instant::now().checked_add(duration);
                    let due = due.unwrap_or(self.deadline + HOOK_MAX);
                    self.sleeps.insert((due, id.0), id);
                }
                Wait::Commit(_) | Wait::EmitAndCommit(..) | Wait::Settle { .. } => {
                    reply.committed(Err("there is no message to commit".to_owned()));
                }
                Wait::Outside(job) => self.outside.push((id, outside.begin(job, reply))),
            }
        }
    }

    /// The next answer; none if the deadline comes first.
    fn next(&mut self) -> Option<(WaitId, Answer)> {
        let due = self.sleeps.first_key_value().map(|((due, _), _)| *due);
        // A wait that cannot end in time is not waited for.
        if self.outside.is_empty() && due.is_some_and(|due| due > self.deadline) {
            return self.answers.try_recv().ok();
        }
        let until = due.map_or(self.deadline, |due| due.min(self.deadline));
        let left = until.saturating_duration_since(Instant::now());
        match self.answers.recv_timeout(left) {
            Ok((id, answer)) => {
                self.outside.retain(|(one, _)| *one != id);
                Some((id, answer))
            }
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                due.filter(|due| *due <= self.deadline)?;
                let (_, id) = self.sleeps.pop_first()?;
                Some((id, Answer::Slept))
            }
        }
    }
}
