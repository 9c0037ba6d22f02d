//! Which offset may be committed: what a message costs to arrive and to finish, and what a commit costs to say.

use criterion::{Criterion, Throughput};
use moontide::micro::Offsets;

use crate::one_message;

const IN_FLIGHT: usize = 1_000;
/// Until what is in flight is as scattered as it stays.
const SETTLED: usize = 100 * IN_FLIGHT;

fn scattered() -> Offsets {
    let mut offsets = Offsets::new(IN_FLIGHT);
    for _ in 0..SETTLED {
        offsets.in_any_order();
    }
    offsets
}

pub(crate) fn all(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("offsets, 1,000 in flight");
    group.throughput(one_message());
    group.bench_function("arrive and finish in order", |bencher| {
        let mut offsets = Offsets::new(IN_FLIGHT);
        bencher.iter(|| offsets.in_order());
    });
    group.bench_function("arrive and finish in any order", |bencher| {
        let mut offsets = scattered();
        bencher.iter(|| offsets.in_any_order());
    });
    let offsets = scattered();
    group.bench_function("position", |bencher| {
        bencher.iter(|| offsets.position());
    });
    group.finish();
    commit(criterion, &offsets);
}

/// Once a commit: the items are the ranges that are finished beyond the position.
fn commit(criterion: &mut Criterion, offsets: &Offsets) {
    let metadata = offsets.metadata();
    let mut group = criterion.benchmark_group("metadata of a commit, 1,000 in flight");
    group.throughput(Throughput::ElementsAndBytes {
        elements: metadata.decode() as u64,
        bytes: metadata.bytes() as u64,
    });
    group.bench_function("find what is finished", |bencher| {
        bencher.iter(|| offsets.beyond());
    });
    group.bench_function("encode", |bencher| {
        bencher.iter(|| metadata.encode());
    });
    group.bench_function("decode", |bencher| {
        bencher.iter(|| metadata.decode());
    });
    group.finish();
}
