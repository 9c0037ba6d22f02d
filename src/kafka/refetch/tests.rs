//! What the messages of a log say of those that are wanted.

use super::reading::BYTES_MAX;
use super::*;
use crate::message::OwnedRecord;

fn job(offsets: &[i64]) -> Job {
    Job {
        wanted: Wanted {
            topic: "orders".into(),
            partition: 0,
            offsets: offsets.iter().copied().collect(),
            is_over: Box::new(|| false),
            tell: Box::new(|_| ()),
        },
        found: Vec::new(),
        bytes: 0,
        tries: 0,
        not_before: Instant::now(),
    }
}

fn message(offset: i64, bytes: usize) -> Message {
    Message::of(OwnedRecord {
        offset,
        value: Some(vec![0; bytes].into()),
        ..OwnedRecord::default()
    })
}

fn found(job: &Job) -> Vec<(i64, bool)> {
    let found = job.found.iter();
    found.map(|(at, one)| (*at, one.is_some())).collect()
}

#[test]
fn a_message_behind_a_wanted_one_shows_that_it_is_gone() {
    let mut job = job(&[3, 5, 6, 9]);
    for offset in [3, 4, 6, 7] {
        job.took(message(offset, 1));
    }
    assert_eq!(found(&job), [(3, true), (5, false), (6, true)]);
    assert!(!job.is_done());
    job.pass(10);
    assert!(job.is_done());
    assert_eq!(found(&job)[3], (9, false));
}

#[test]
fn what_passes_the_bytes_of_an_answer_is_asked_for_again() {
    let mut job = job(&[1, 2]);
    job.took(message(1, BYTES_MAX));
    assert!(job.is_done());
    job.took(message(2, 1));
    assert_eq!(found(&job), [(1, true)]);
}

#[test]
fn the_next_request_goes_on_where_the_last_one_ended() {
    let mut reading = Reading {
        topic: "orders".into(),
        partition: 0,
        next: 1,
        ahead: VecDeque::new(),
        is_broken: false,
    };
    let mut first = job(&[2, 3]);
    assert!(reading.goes_on_at(&first, 2));
    for offset in 1..8 {
        reading.took(&mut first, message(offset, 1));
    }
    assert_eq!(found(&first), [(2, true), (3, true)]);
    assert_eq!((reading.next, reading.ahead.len()), (8, 4));

    // What lies before the messages that are left has been passed over.
    let mut second = job(&[3, 6, 9]);
    assert!(!reading.goes_on_at(&second, 3));
    second.next_if(|_| true);
    assert!(reading.goes_on_at(&second, 6));
    reading.take_ahead(&mut second);
    assert_eq!(found(&second), [(6, true)]);
    assert!(reading.ahead.is_empty() && !second.is_done());
    assert!(reading.goes_on_at(&second, 9));
    assert!(!reading.goes_on_at(&second, 9 + GAP));
    let elsewhere = Job {
        wanted: Wanted {
            partition: 1,
            ..job(&[9]).wanted
        },
        ..job(&[9])
    };
    assert!(!reading.goes_on_at(&elsewhere, 9));
}

/// librdkafka tells an error for a batch that it cannot read, and goes on behind it.
#[test]
fn nothing_behind_an_error_shows_that_a_message_is_gone() {
    let mut reading = Reading {
        topic: "orders".into(),
        partition: 0,
        next: 1,
        ahead: VecDeque::new(),
        is_broken: false,
    };
    let mut job = job(&[1, 3, 5, 9]);
    reading.took(&mut job, message(1, 1));
    reading.break_off();
    reading.took(&mut job, message(5, 1));
    reading.ended(&mut job, 10);
    assert_eq!(found(&job), [(1, true)]);
    assert_eq!(job.wanted.offsets, [3, 5, 9]);
    assert!(!reading.goes_on_at(&job, 3));
}
