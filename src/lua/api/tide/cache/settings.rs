//! The options of `tide.cache`, and what identifies a cache.

#![expect(unsafe_code, reason = "reads Lua values")]

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::time::Duration;

use mlua::ffi::{self, lua_State};

use crate::duration;
use crate::lua::api::tide::options::{self, Fields};
use crate::lua::plain;
use crate::lua::shared::Shared;
use crate::lua::stack::type_name;
use crate::lua::vm::failure;
use crate::state::cache::Settings;
use crate::wait::Value;

const NAMES: [&str; 4] = ["ttl", "stale", "capacity", "name"];
const FORM: &str = "{ ttl = \"60s\" }";
const CAPACITY: i64 = 10_000;
const CAPACITY_MAX: i64 = 1_000_000;
const NAME_MAX: usize = 200;
const TTL_MAX: Duration = Duration::from_secs(366 * 86_400);

/// Raises nothing.
pub(super) unsafe fn read(state: *mut lua_State, shared: &Shared) -> Result<Settings, String> {
    // SAFETY: values are read, never converted in place.
    unsafe {
        if ffi::lua_type(state, 1) != ffi::LUA_TFUNCTION {
            let found = type_name(state, 1);
            return Err(format!(
                " takes a function whose results are kept, not {found}"
            ));
        }
        let (options, _) = plain::read(state, 2, 1 << 20)
            .map_err(|reason| format!(" takes options of plain data: {reason}"))?;
        let what = format!("options as a table, as `{FORM}`");
        let mut fields = Fields::of(options, String::new(), &what, &NAMES)?;
        let position = failure::position(state).unwrap_or_default();
        let name = match fields.take("name") {
            Value::Nil => position.clone(),
            Value::Bytes(bytes) if (1..=NAME_MAX).contains(&bytes.len()) => {
                String::from_utf8_lossy(&bytes).into_owned()
            }
            other => {
                let found = options::shown(&other);
                return fields.error(format!(
                    "`name` is {found}, not a string of 1 to {NAME_MAX} bytes"
                ));
            }
        };
        let Some(ttl) = time(&mut fields, "ttl")? else {
            return fields.error(format!("`ttl` is missing, as in `{FORM}`"));
        };
        if ttl.is_zero() {
            return fields.error("`ttl` is 0, and so nothing would be kept");
        }
        let capacity = options::integer(&mut fields, "capacity", 1, CAPACITY_MAX)?;
        Ok(Settings {
            name,
            file: content(shared, &position),
            ttl,
            stale: time(&mut fields, "stale")?.unwrap_or_default(),
            capacity: capacity.unwrap_or(CAPACITY) as usize,
        })
    }
}

fn time(fields: &mut Fields, name: &str) -> Result<Option<Duration>, String> {
    let value = fields.take(name);
    let time = match &value {
        Value::Nil => return Ok(None),
        Value::Integer(ms) => duration::of_ms(*ms as f64),
        Value::Number(ms) => duration::of_ms(*ms),
        value => value.text().and_then(duration::parse),
    };
    match time {
        Some(time) if time <= TTL_MAX => Ok(Some(time)),
        _ => fields.error(format!(
            "`{name}` is {}, not {}, at most 366 days",
            options::shown(&value),
            duration::FORM
        )),
    }
}

/// The hash of the file at a position such as `handlers/a.lua:12`. Code of no file is that of its bundle.
fn content(shared: &Shared, position: &str) -> u64 {
    let file = position.rsplit_once(':').map_or(position, |(file, _)| file);
    let below = file.strip_prefix(shared.folder.as_str());
    let path = below.and_then(|rest| rest.strip_prefix('/'));
    let mut hasher = DefaultHasher::new();
    match path.and_then(|path| shared.sources.files.get(path)) {
        Some(bytes) => bytes.hash(&mut hasher),
        None => shared.bundle.hash(&mut hasher),
    }
    hasher.finish()
}
