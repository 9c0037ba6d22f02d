//! Micro-benchmarks of the hot path's parts: how long each takes for one message, without Kafka.
//!
//! `cargo bench --features micro --bench micro [-- FILTER]`. The unit of every benchmark is one message, also where a step
//! takes many; that of a commit's metadata one commit. They compare two states of the code on one machine, nothing else.

mod calls;
mod json;
mod lanes;
mod offsets;
mod state;

use std::time::{Duration, Instant};

use criterion::{Bencher, Criterion, Throughput};

/// The program's own.
#[global_allocator]
static ALLOCATOR: moontide::Allocator = moontide::Allocator;

/// What a consumer takes at once, at most.
const BATCH: u64 = 1_000;

fn main() {
    let mut criterion = Criterion::default()
        .without_plots()
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
        .configure_from_args();
    calls::all(&mut criterion);
    offsets::all(&mut criterion);
    lanes::all(&mut criterion);
    json::all(&mut criterion);
    state::all(&mut criterion);
    criterion.final_summary();
}

/// Measures a step that takes `each` messages as so many; `step` says how long it took without its preparation.
fn per_message(bencher: &mut Bencher<'_>, each: u64, mut step: impl FnMut() -> Duration) {
    bencher.iter_custom(|messages| {
        let steps = messages.div_ceil(each);
        let took: Duration = (0..steps).map(|_| step()).sum();
        took.mul_f64(messages as f64 / (steps * each) as f64)
    });
}

fn timed<T>(step: impl FnOnce() -> T) -> Duration {
    let start = Instant::now();
    let result = step();
    let took = start.elapsed();
    drop(result);
    took
}

fn one_message() -> Throughput {
    Throughput::Elements(1)
}

/// One message of so many bytes.
fn one_of(bytes: usize) -> Throughput {
    Throughput::ElementsAndBytes {
        elements: 1,
        bytes: bytes as u64,
    }
}
