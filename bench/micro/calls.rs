//! The message's table and the call of its handler; and all that a worker does for a message around it.

use std::time::Duration;

use criterion::Criterion;
use moontide::micro::{Handler, Shape, Worker};

use crate::{BATCH, one_of, per_message, timed};

const NOTHING: &str = "return function() end";
const READS_VALUE: &str = "return function(message) local value = message.value end";
const BYTES: usize = 200;

fn shape(headers: usize) -> Shape {
    Shape {
        value: vec![b'x'; BYTES],
        headers,
    }
}

pub(crate) fn all(criterion: &mut Criterion) {
    call(criterion);
    batch(criterion);
}

/// The VM's part alone.
fn call(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("call");
    group.throughput(one_of(BYTES));
    for (name, file, headers) in [
        ("does nothing", NOTHING, 0),
        ("reads value", READS_VALUE, 0),
        ("does nothing, 3 headers", NOTHING, 3),
        ("reads value, 3 headers", READS_VALUE, 3),
    ] {
        group.bench_function(name, |bencher| {
            let mut handler = Handler::new(file, &shape(headers));
            bencher.iter(|| handler.call());
        });
    }
    group.finish();
}

/// From the letter with a batch to the letter that says what is finished. The messages' bytes are freed in it.
fn batch(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("worker, batch of 1,000");
    group.throughput(one_of(BYTES));
    for (name, file, headers) in [
        ("does nothing", NOTHING, 0),
        ("reads value", READS_VALUE, 0),
        ("reads value, 3 headers", READS_VALUE, 3),
    ] {
        group.bench_function(name, |bencher| {
            let folder = tempfile::tempdir().expect("a folder for the journal");
            let mut worker = Worker::new(file, shape(headers), folder.path());
            per_message(bencher, BATCH, || -> Duration {
                let batch = worker.batch(BATCH);
                timed(|| worker.run(batch))
            });
        });
    }
    group.finish();
}
