//! A bundle: one read, checked and numbered set of config and handlers.
//!
//! Start and reload take the same road through here. A bundle is made of bytes that were read once: nothing that runs
//! later (a second VM, a late `require`) looks at the disk again, so no call ever mixes two of them.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::config::Config;

/// Every Lua file under the handlers folder, by its path below it (`billing/orders.lua`), as it was on disk.
pub(crate) type Sources = BTreeMap<String, Arc<[u8]>>;

#[derive(Clone, Debug)]
pub(crate) struct Bundle {
    pub(crate) number: u64,
    /// Of config and sources together; equal bytes are an equal bundle.
    pub(crate) hash: u64,
    /// Milliseconds since the epoch.
    pub(crate) loaded_at: i64,
    pub(crate) config: Arc<Config>,
    pub(crate) sources: Arc<Sources>,
}
