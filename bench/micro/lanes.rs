//! Which message may run: what one costs when it comes and when it ends, with as many in flight as a consumer may have.

use std::time::Duration;

use criterion::Criterion;
use moontide::micro::{Lanes, Order};

use crate::{BATCH, one_message, per_message, timed};

const IN_FLIGHT: u64 = 8_192;
const ORDERS: [(&str, Order); 5] = [
    ("by partition", Order::Partition),
    ("by key, 10 keys", Order::Keys(10)),
    ("by key, 1,000 keys", Order::Keys(1_000)),
    ("by key, 100,000 keys", Order::Keys(100_000)),
    ("no order", Order::None),
];

pub(crate) fn all(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("lanes");
    group.throughput(one_message());
    group.bench_function("arrive and finish at once, any order", |bencher| {
        let mut lanes = Lanes::new(Order::None);
        per_message(bencher, BATCH, || -> Duration {
            let messages = lanes.messages(BATCH);
            timed(|| lanes.pass(messages))
        });
    });
    for (name, order) in ORDERS {
        group.bench_function(format!("arrive, {name}"), |bencher| {
            let mut lanes = Lanes::new(order);
            per_message(bencher, IN_FLIGHT, || -> Duration {
                let messages = lanes.messages(IN_FLIGHT);
                let took = timed(|| lanes.arrive(messages));
                lanes.finish(IN_FLIGHT);
                took
            });
        });
        group.bench_function(format!("finish, {name}"), |bencher| {
            let mut lanes = Lanes::new(order);
            per_message(bencher, IN_FLIGHT, || -> Duration {
                let messages = lanes.messages(IN_FLIGHT);
                lanes.arrive(messages);
                timed(|| lanes.finish(IN_FLIGHT))
            });
        });
    }
    group.finish();
}
