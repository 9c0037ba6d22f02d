//! Whether the servers of a configuration can be reached, for `moontide check --connect`.

use std::time::Duration;

use tokio::time::Instant;

use super::{Client, RedisClients, Settings};
use crate::config::Address;
use crate::wait::Fault;
use crate::wait::redis::Work;

impl RedisClients {
    /// Each address with the time that its log-in took; of a cluster, each master too.
    pub(crate) async fn reach(
        &self,
        settings: &Settings,
    ) -> Vec<(Address, Duration, Result<(), Fault>)> {
        let client = self.client(settings);
        let mut wanted = settings.addresses.clone();
        let mut all = Vec::new();
        for address in &wanted {
            all.push(client.reach(address).await);
        }
        if !settings.is_cluster || all.iter().all(|(.., result)| result.is_err()) {
            return all;
        }
        // Any command without a key makes the client learn its members.
        let ping = Work::One(vec![b"PING".to_vec()]);
        if let Err(fault) = client.run(ping, None).await {
            let address = wanted.swap_remove(0);
            all.push((address, Duration::ZERO, Err(fault)));
            return all;
        }
        for address in client.members.masters() {
            if !wanted.contains(&address) {
                all.push(client.reach(&address).await);
            }
        }
        all
    }
}

impl Client {
    async fn reach(&self, address: &Address) -> (Address, Duration, Result<(), Fault>) {
        let began = Instant::now();
        let connected = self.connect(&self.pool, address, None).await;
        (address.clone(), began.elapsed(), connected.map(drop))
    }
}
