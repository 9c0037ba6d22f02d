//! **The one table of the commands that are methods.** The methods themselves, their type definitions, the suggestions
//! for a wrong name and the check of their page come from it.

use std::fmt::Write as _;

use super::arguments::{Method, Shape};
use super::starting::start_method;
use crate::lua::api::module::{Body, Entry};

/// One row: the name, what it takes and returns, and the form of the reply. `...` stands for further arguments.
pub(in crate::lua) struct Row {
    pub(in crate::lua) method: Method,
    /// For the type definitions: `string?`.
    pub(in crate::lua) returns: &'static str,
    pub(super) entry: Entry,
}

macro_rules! rows {
    ($($name:literal ($($parameter:literal),*) $returns:literal $shape:ident;)*) => {
        /// In the order of their names.
        pub(in crate::lua) const ROWS: &[Row] = &[$({
            const METHOD: Method = Method {
                name: $name,
                path: concat!("redis:", $name),
                job: concat!("redis.", $name),
                parameters: &[$($parameter),*],
                shape: Shape::$shape,
            };
            Row {
                method: METHOD,
                returns: $returns,
                entry: Entry {
                    name: $name,
                    path: METHOD.path,
                    types: &[],
                    body: Body::Outside(|caller, arguments| start_method(&METHOD, caller, arguments)),
                },
            }
        }),*];
    };
}

rows! {
    "append" ("key", "value") "integer" Plain;
    "bitcount" ("key", "...") "integer" Plain;
    "blmove" ("source", "destination", "from", "to", "seconds") "string?" Plain;
    "blpop" ("key", "...", "seconds") "string[]?" Plain;
    "brpop" ("key", "...", "seconds") "string[]?" Plain;
    "bzpopmax" ("key", "...", "seconds") "string[]?" Plain;
    "bzpopmin" ("key", "...", "seconds") "string[]?" Plain;
    "decr" ("key") "integer" Plain;
    "decrby" ("key", "decrement") "integer" Plain;
    "del" ("key", "...") "integer" Plain;
    "exists" ("key") "boolean" Flag;
    "expire" ("key", "seconds", "...") "boolean" Flag;
    "expireat" ("key", "time", "...") "boolean" Flag;
    "get" ("key") "string?" Plain;
    "getdel" ("key") "string?" Plain;
    "getex" ("key", "...") "string?" Plain;
    "getrange" ("key", "first", "last") "string" Plain;
    "hdel" ("key", "field", "...") "integer" Plain;
    "hexists" ("key", "field") "boolean" Flag;
    "hget" ("key", "field") "string?" Plain;
    "hgetall" ("key") "table<string, string>" Map;
    "hincrby" ("key", "field", "increment") "integer" Plain;
    "hincrbyfloat" ("key", "field", "increment") "string" Plain;
    "hkeys" ("key") "string[]" Plain;
    "hlen" ("key") "integer" Plain;
    "hmget" ("key", "field", "...") "any[]" Plain;
    "hscan" ("key", "cursor", "...") "any[]" Plain;
    "hset" ("key", "field", "value", "...") "integer" Plain;
    "hsetnx" ("key", "field", "value") "boolean" Flag;
    "hvals" ("key") "string[]" Plain;
    "incr" ("key") "integer" Plain;
    "incrby" ("key", "increment") "integer" Plain;
    "incrbyfloat" ("key", "increment") "string" Plain;
    "lindex" ("key", "index") "string?" Plain;
    "llen" ("key") "integer" Plain;
    "lmove" ("source", "destination", "from", "to") "string?" Plain;
    "lpop" ("key", "...") "any" Plain;
    "lpush" ("key", "value", "...") "integer" Plain;
    "lrange" ("key", "first", "last") "string[]" Plain;
    "lrem" ("key", "count", "value") "integer" Plain;
    "lset" ("key", "index", "value") "string" Plain;
    "ltrim" ("key", "first", "last") "string" Plain;
    "mget" ("key", "...") "any[]" Plain;
    "mset" ("key", "value", "...") "string" Plain;
    "persist" ("key") "boolean" Flag;
    "pexpire" ("key", "milliseconds", "...") "boolean" Flag;
    "pfadd" ("key", "...") "boolean" Flag;
    "pfcount" ("key", "...") "integer" Plain;
    "ping" () "string" Plain;
    "pttl" ("key") "integer" Plain;
    "publish" ("channel", "message") "integer" Plain;
    "rpop" ("key", "...") "any" Plain;
    "rpush" ("key", "value", "...") "integer" Plain;
    "sadd" ("key", "member", "...") "integer" Plain;
    "scan" ("cursor", "...") "any[]" Plain;
    "scard" ("key") "integer" Plain;
    "sdiff" ("key", "...") "string[]" Plain;
    "set" ("key", "value", "...") "string?" Plain;
    "setex" ("key", "seconds", "value") "string" Plain;
    "setnx" ("key", "value") "boolean" Flag;
    "setrange" ("key", "offset", "value") "integer" Plain;
    "sinter" ("key", "...") "string[]" Plain;
    "sismember" ("key", "member") "boolean" Flag;
    "smembers" ("key") "string[]" Plain;
    "smismember" ("key", "member", "...") "integer[]" Plain;
    "spop" ("key", "...") "any" Plain;
    "srandmember" ("key", "...") "any" Plain;
    "srem" ("key", "member", "...") "integer" Plain;
    "sscan" ("key", "cursor", "...") "any[]" Plain;
    "strlen" ("key") "integer" Plain;
    "sunion" ("key", "...") "string[]" Plain;
    "ttl" ("key") "integer" Plain;
    "type" ("key") "string" Plain;
    "unlink" ("key", "...") "integer" Plain;
    "xack" ("key", "group", "id", "...") "integer" Plain;
    "xadd" ("key", "id", "field", "value", "...") "string?" Plain;
    "xautoclaim" ("key", "group", "consumer", "idle", "start", "...") "any[]" Plain;
    "xdel" ("key", "id", "...") "integer" Plain;
    "xgroup" ("action", "key", "group", "...") "any" Plain;
    "xlen" ("key") "integer" Plain;
    "xrange" ("key", "first", "last", "...") "any[]" Plain;
    "xread" ("...") "any[]?" Plain;
    "xreadgroup" ("...") "any[]?" Plain;
    "xtrim" ("key", "...") "integer" Plain;
    "zadd" ("key", "score", "member", "...") "any" Plain;
    "zcard" ("key") "integer" Plain;
    "zcount" ("key", "least", "most") "integer" Plain;
    "zincrby" ("key", "increment", "member") "string" Plain;
    "zmscore" ("key", "member", "...") "any[]" Plain;
    "zpopmax" ("key", "...") "string[]" Plain;
    "zpopmin" ("key", "...") "string[]" Plain;
    "zrange" ("key", "first", "last", "...") "string[]" Plain;
    "zrangebyscore" ("key", "least", "most", "...") "string[]" Plain;
    "zrank" ("key", "member") "integer?" Plain;
    "zrem" ("key", "member", "...") "integer" Plain;
    "zremrangebyscore" ("key", "least", "most") "integer" Plain;
    "zrevrange" ("key", "first", "last", "...") "string[]" Plain;
    "zscan" ("key", "cursor", "...") "any[]" Plain;
    "zscore" ("key", "member") "string?" Plain;
}

/// The head of the class in the type definitions.
const CLASS: &str = "
---@class tide.redis.Options
---@field timeout? number|string

---A Redis server, or a cluster of them.
---@class tide.Redis
---@field call fun(self: tide.Redis, name: string, ...: any): any
---@field pipeline fun(self: tide.Redis, commands: any[][], options?: { atomic?: boolean, timeout?: number|string }): any[]
---@field script fun(self: tide.Redis, text: string, keys?: any[], arguments?: any[], options?: tide.redis.Options): any
";

/// The type definitions of the object for `LuaLS`.
pub(in crate::lua::api::tide) fn definitions() -> String {
    let mut text = String::from(CLASS);
    for Row {
        method, returns, ..
    } in ROWS
    {
        let mut parameters = vec!["self: tide.Redis".to_owned()];
        for parameter in method.parameters {
            parameters.push(match *parameter {
                "..." => "...: any".to_owned(),
                name => format!("{name}: string|number"),
            });
        }
        // What follows `...` is one of them for Lua.
        if let Some(at) = method.parameters.iter().position(|one| *one == "...") {
            parameters.truncate(at + 2);
        } else {
            parameters.push("options?: tide.redis.Options".to_owned());
        }
        let (name, parameters) = (method.name, parameters.join(", "));
        // Writing to a string cannot fail.
        let _ = writeln!(text, "---@field {name} fun({parameters}): {returns}");
    }
    text
}
