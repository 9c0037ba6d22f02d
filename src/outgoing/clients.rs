//! The clients of handlers that answer their waits outside, made once for the process.

use std::sync::Arc;

use super::http::HttpClients;
use super::redis::RedisClients;
use super::sql::SqlClients;
use crate::lua::App;

#[derive(Debug, Default)]
pub(crate) struct Clients {
    pub(crate) http: Arc<HttpClients>,
    pub(crate) redis: Arc<RedisClients>,
    pub(crate) sql: Arc<SqlClients>,
}

impl Clients {
    /// VMs get each of them from `app`.
    pub(crate) fn join(&self, app: App) -> App {
        app.with_http(self.http.clone())
            .with_redis(self.redis.clone())
            .with_sql(self.sql.clone())
    }
}
