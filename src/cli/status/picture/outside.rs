//! The waits of handlers, and the connections that serve them.

use super::View;
use crate::cli::status::words::{count, harmless};
use crate::telemetry::status::{CacheStatus, KvStatus, OutsideWait, PoolStatus, Status};

/// The most waits that are shown without `--all`.
const WAITS_MAX: usize = 5;

pub(super) fn lines(status: &Status, view: &View) -> Vec<String> {
    let mut lines = Vec::new();
    let used = status.redis.iter().filter(|one| one.pool.open > 0);
    if let Some(http) = status.http {
        lines.push(format!("http      {}", pool(http, "request")));
    }
    for redis in used {
        let mut text = pool(redis.pool, "call");
        if redis.blocking > 0 {
            text = format!("{text}, {} with a command that blocks", redis.blocking);
        }
        lines.push(format!("redis     {}: {text}", harmless(&redis.name)));
    }
    for sql in status.sql.iter().filter(|one| one.pool.open > 0) {
        let mut text = pool(sql.pool, "call");
        if sql.transactions > 0 {
            text = format!("{text}, {} in a transaction", sql.transactions);
        }
        lines.push(format!("sql       {}: {text}", harmless(&sql.name)));
    }
    lines.extend(stores(status));
    let shown = if view.all { usize::MAX } else { WAITS_MAX };
    for one in status.waits.iter().take(shown) {
        let OutsideWait {
            listener,
            what,
            calls,
            since,
        } = one;
        let who = listener.as_deref().unwrap_or("a timer");
        let since = view.since(*since);
        let text = match calls {
            1 => format!("{who} waits for {what}, {since}"),
            _ => format!("{who} waits for {what} in {calls} calls, the first for {since}"),
        };
        lines.extend(view.text("waits     ", &text, false));
    }
    let hidden = status.waits.len().saturating_sub(shown);
    if hidden > 0 {
        lines.push(format!("          … and {hidden} more; --all shows them"));
    }
    if !lines.is_empty() {
        lines.insert(0, String::new());
    }
    lines
}

/// The stores, and the caches that calls have used.
fn stores(status: &Status) -> Vec<String> {
    let stores = status.kv.iter().map(|kv| {
        let KvStatus {
            name,
            backend,
            entries,
            bytes,
            max_entries,
            max_bytes,
        } = kv;
        let name = harmless(name);
        format!(
            "kv        {name} ({backend}): {entries} of {max_entries} entries, {bytes} of {max_bytes} bytes"
        )
    });
    let used = status.caches.iter().filter(|one| one.hits + one.misses > 0);
    let caches = used.map(|cache| {
        let CacheStatus {
            name,
            entries,
            capacity,
            hits,
            misses,
            ..
        } = cache;
        let percent = hits * 100 / (hits + misses);
        let name = harmless(name);
        format!(
            "cache     {name}: {entries} of {capacity} results, {percent} % of the calls are hits"
        )
    });
    stores.chain(caches).collect()
}

fn pool(pool: PoolStatus, what: &str) -> String {
    let PoolStatus {
        size,
        in_use,
        idle,
        waiting,
        ..
    } = pool;
    let text = format!("{in_use} of {size} connections in use, {idle} idle");
    if waiting == 0 {
        return text;
    }
    format!("{text}, {} waiting for one", count(waiting, what))
}
