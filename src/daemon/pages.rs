//! The pages of the HTTP server, made of what the daemon's threads say when they are asked.
//!
//! A page is made when it is asked for, never ahead: nothing is collected where nobody looks.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::clock::now_ms;
use crate::config;
use crate::http::{Content, JSON, Page, Source};
use crate::logging::Guard;
use crate::metrics::{self, ConsumerSnapshot, Process};
use crate::ready::readiness;
use crate::status::Status;
use crate::systemd::Progress;

use super::fleet::Roster;

/// How long a position may stand still where `[http]` says nothing of it.
const STALL_AFTER: Duration = Duration::from_secs(300);

/// Who is asked.
#[derive(Clone)]
pub(super) struct Pages {
    pub(super) roster: Roster,
    pub(super) status: Arc<Mutex<Status>>,
    pub(super) progress: Arc<Progress>,
    pub(super) guard: Arc<Guard>,
}

impl Pages {
    pub(super) fn source(self) -> Source {
        Arc::new(move |page| match page {
            Page::Metrics => self.metrics(),
            Page::Live => self.live(),
            Page::Ready => self.ready(),
            Page::Status => {
                let (status, _) = gather(&self.roster, &self.status);
                json(true, &status)
            }
        })
    }

    fn metrics(&self) -> Content {
        let (status, consumers) = gather(&self.roster, &self.status);
        let bundle = self.roster.bundle();
        let listeners = bundle.config.listeners.iter();
        let facts = metrics::Facts {
            status: &status,
            consumers: &consumers,
            workers: &[],
            listeners: listeners.map(|listener| &*listener.name).collect(),
            process: Process::look(),
            dropped_lines: self.guard.dropped_lines(),
            librdkafka: &crate::kafka::version(),
            now_ms: now_ms(),
        };
        let page = metrics::page(&facts);
        Content {
            is_well: page.is_ok(),
            media_type: metrics::CONTENT_TYPE,
            text: page.unwrap_or_default(),
        }
    }

    /// What systemd's watchdog asks too: whether every thread moves.
    fn live(&self) -> Content {
        let stalled = self.progress.stalled(Instant::now());
        let why = stalled.as_ref().map(ToString::to_string);
        let thread = stalled.map(|stalled| stalled.thread);
        let page = serde_json::json!({ "live": thread.is_none(), "thread": thread, "why": why });
        json(thread.is_none(), &page)
    }

    fn ready(&self) -> Content {
        let (status, _) = gather(&self.roster, &self.status);
        let readiness = status.readiness.unwrap_or_default();
        json(readiness.ready, &readiness.reasons)
    }
}

fn json(is_well: bool, page: &impl serde::Serialize) -> Content {
    let text = serde_json::to_string_pretty(page);
    Content {
        is_well: is_well && text.is_ok(),
        media_type: JSON,
        text: text.map_or_else(|error| error.to_string(), |text| text + "\n"),
    }
}

/// The status as it is now: every consumer is asked, and one that does not answer in time is `silent`.
pub(super) fn gather(roster: &Roster, status: &Mutex<Status>) -> (Status, Vec<ConsumerSnapshot>) {
    let consumers = roster.consumers();
    let mut status = status
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
        .clone();
    status.consumers = consumers.iter().map(|one| one.status.clone()).collect();
    let http = roster.bundle().config.http.clone();
    let stall_after = http.map_or(STALL_AFTER, |http: config::Http| http.stall_after);
    status.readiness = Some(readiness(&status, stall_after, now_ms()));
    (status, consumers)
}
