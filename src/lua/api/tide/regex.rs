//! `tide.regex`: regular expressions on bytes, searched in linear time.
//!
//! A regular expression in Lua is a userdata with its pattern and the number of its compiled form. The compiled forms
//! are the VM's, so that a finalizer has nothing to do, and a second call of it does no harm.

#![expect(unsafe_code, reason = "C functions for Lua")]

mod matching;

use std::ffi::{CStr, c_int};
use std::rc::Rc;

use mlua::ffi::{self, lua_State};
use regex::bytes::Regex;

use crate::lua::api::arguments::{Arguments, Results};
use crate::lua::api::fields::unknown;
use crate::lua::api::module::{Body, Entry, Module};
use crate::lua::at_once::{answer, attempt};
use crate::lua::patterns::{Flags, PatternId, Refusal};
use crate::lua::shared::Shared;
use crate::lua::stack::{bytes_at, push_bytes, type_name};
use crate::wait::{Fault, Value};

use matching::{Template, Walk, groups, replaced, split};

const METATABLE: &CStr = c"moontide.regex";
const METHODS: [&str; 6] = ["find", "gmatch", "match", "replace", "split", "test"];
/// The upvalue of every function here: the metatable, by which it knows a regular expression.
const OWN: c_int = ffi::lua_upvalueindex(2);
/// The user value with the pattern.
const PATTERN: c_int = 1;

/// The block of a regular expression.
#[derive(Clone, Copy)]
struct Block {
    flags: Flags,
    id: PatternId,
}

pub(super) const MODULE: Module = Module {
    path: "tide.regex",
    about: "Regular expressions in linear time.",
    entries: &[
        Entry {
            name: "escape",
            path: "tide.regex.escape",
            types: &[
                "Returns the pattern that matches exactly this text.",
                "@param text string",
                "@return string",
            ],
            body: Body::Now(|arguments| Ok(regex::escape(arguments.text(1, "text")?).into())),
        },
        Entry {
            name: "new",
            path: "tide.regex.new",
            types: &[
                "Compiles a regular expression.",
                "@param pattern string",
                "@param options? { flags?: string } letters of `imsxUb`",
                "@return tide.Regex",
            ],
            body: Body::Value(|state, shared| {
                // SAFETY: runs protected, after `install`.
                unsafe {
                    ffi::lua_getfield(state, ffi::LUA_REGISTRYINDEX, METATABLE.as_ptr());
                    shared.push_function(state, new, 1);
                }
            }),
        },
    ],
};

/// Makes the metatable of regular expressions.
pub(super) unsafe fn install(state: *mut lua_State, shared: &Shared) {
    let methods: [(&CStr, ffi::lua_CFunction); 6] = [
        (c"find", find),
        (c"gmatch", gmatch),
        (c"match", first),
        (c"replace", replace),
        (c"split", split_text),
        (c"test", test),
    ];
    // SAFETY: runs protected.
    unsafe {
        ffi::luaL_newmetatable(state, METATABLE.as_ptr());
        ffi::lua_createtable(state, 0, 6);
        for (name, method) in methods {
            ffi::lua_pushvalue(state, -2);
            shared.push_function(state, method, 1);
            ffi::lua_setfield(state, -2, name.as_ptr());
        }
        ffi::lua_createtable(state, 0, 1);
        shared.push_function(state, no_method, 0);
        ffi::lua_setfield(state, -2, c"__index".as_ptr());
        ffi::lua_setmetatable(state, -2);
        ffi::lua_setfield(state, -2, c"__index".as_ptr());
        ffi::lua_pushvalue(state, -1);
        shared.push_function(state, text, 1);
        ffi::lua_setfield(state, -2, c"__tostring".as_ptr());
        push_bytes(state, b"tide.regex");
        ffi::lua_setfield(state, -2, c"__name".as_ptr());
        ffi::lua_pushboolean(state, 0);
        ffi::lua_setfield(state, -2, c"__metatable".as_ptr());
        ffi::lua_pop(state, 1);
    }
}

unsafe extern "C-unwind" fn no_method(state: *mut lua_State) -> c_int {
    // SAFETY: Lua calls it with a table and a key.
    unsafe { unknown(state, Shared::of(state), 2, "regex", &METHODS) }
}

unsafe extern "C-unwind" fn new(state: *mut lua_State) -> c_int {
    // SAFETY: a C function of Lua. The block is plain data.
    unsafe {
        let shared = Shared::of(state);
        ffi::lua_settop(state, 2);
        let block = attempt(state, shared, "tide.regex.new", |arguments| {
            let pattern = arguments.text(1, "pattern")?;
            let flags = flags(arguments)?;
            let id = shared.patterns.borrow_mut().compile(pattern, flags);
            let id = id.map_err(|refusal| refused(arguments, refusal))?;
            Ok(Block { flags, id })
        });
        let own = ffi::lua_newuserdatauv(state, size_of::<Block>(), PATTERN);
        own.cast::<Block>().write_unaligned(block);
        ffi::lua_pushvalue(state, 1);
        ffi::lua_setiuservalue(state, -2, PATTERN);
        ffi::lua_pushvalue(state, OWN);
        ffi::lua_setmetatable(state, -2);
        1
    }
}

fn refused(arguments: &Arguments<'_>, refusal: Refusal) -> Fault {
    arguments.fault(refusal.kind, refusal.message)
}

fn flags(arguments: &Arguments<'_>) -> Result<Flags, Fault> {
    let letters = match arguments.options(2, &["flags"])?.take("flags") {
        Value::Nil => return Ok(Flags::default()),
        Value::Bytes(letters) => letters,
        other => {
            let message = format!("`flags` is {}, not a string", other.describe());
            return Err(arguments.invalid(message));
        }
    };
    Flags::of(&String::from_utf8_lossy(&letters)).map_err(|letter| {
        arguments.invalid(format!(
            "`flags` has `{}`; there are i (any case), m (lines), s (dot is any), x (space and comments), U (lazy) and b (bytes)",
            letter.escape_debug()
        ))
    })
}

/// The regular expression at `index`, compiled again where its room was needed. Raises nothing.
unsafe fn own(
    state: *mut lua_State,
    shared: &Shared,
    index: c_int,
    arguments: &Arguments<'_>,
) -> Result<Rc<Regex>, Fault> {
    // SAFETY: a userdata with the metatable has the block. A C function has room for two values.
    unsafe {
        let is_own = ffi::lua_type(state, index) == ffi::LUA_TUSERDATA
            && ffi::lua_getmetatable(state, index) != 0
            && {
                let is_own = ffi::lua_rawequal(state, -1, OWN) != 0;
                ffi::lua_pop(state, 1);
                is_own
            };
        if !is_own {
            let (path, found) = (arguments.path, type_name(state, index));
            let message = format!(
                "`{path}` is a method of a regular expression, as `{path}(text)`; it got {found}"
            );
            return Err(Fault::new("invalid", message));
        }
        let block = ffi::lua_touserdata(state, index).cast::<Block>();
        let Block { flags, id } = block.read_unaligned();
        let mut patterns = shared.patterns.borrow_mut();
        if let Some(regex) = patterns.get(id) {
            return Ok(regex);
        }
        ffi::lua_getiuservalue(state, index, PATTERN);
        let pattern = bytes_at(state, -1).unwrap_or_default();
        let id = patterns.compile(&String::from_utf8_lossy(pattern), flags);
        ffi::lua_pop(state, 1);
        let id = id.map_err(|refusal| refused(arguments, refusal))?;
        block.write_unaligned(Block { flags, id });
        let regex = patterns.get(id);
        regex.ok_or_else(|| arguments.fault("internal", "the pattern is lost"))
    }
}

/// Runs a method: its arguments begin behind the regular expression.
unsafe fn run(
    state: *mut lua_State,
    path: &'static str,
    work: impl FnOnce(&Regex, &Arguments<'_>) -> Result<Results, Fault>,
) -> c_int {
    // SAFETY: a C function of Lua; `own` leaves the stack as it was.
    unsafe {
        let shared = Shared::of(state);
        answer(state, shared, path, |arguments| {
            let regex = own(state, shared, 1, arguments)?;
            work(&regex, arguments)
        })
    }
}

/// The byte from which a search begins, counted from 0: a position of Lua, from the end where it is negative.
fn start(arguments: &Arguments<'_>, length: usize) -> Result<usize, Fault> {
    if arguments.is_absent(3) {
        return Ok(0);
    }
    let init = arguments.integer(3, "init")?;
    Ok(match init {
        1.. => (init - 1) as usize,
        0 => 0,
        _ => length.saturating_sub(init.unsigned_abs() as usize),
    })
}

/// A limit from 0 on; absent, there is none.
fn limit(arguments: &Arguments<'_>, index: c_int, least: i64) -> Result<usize, Fault> {
    if arguments.is_absent(index) {
        return Ok(usize::MAX);
    }
    let limit = arguments.integer(index, "limit")?;
    if limit < least {
        let message = format!("`limit` is {limit}, not an integer from {least} on");
        return Err(arguments.invalid(message));
    }
    Ok(limit as usize)
}

unsafe extern "C-unwind" fn test(state: *mut lua_State) -> c_int {
    // SAFETY: a C function of Lua with the upvalues of a method.
    unsafe {
        run(state, "regex:test", |regex, arguments| {
            Ok(regex.is_match(arguments.bytes(2, "text")?).into())
        })
    }
}

unsafe extern "C-unwind" fn find(state: *mut lua_State) -> c_int {
    // SAFETY: as above.
    unsafe {
        run(state, "regex:find", |regex, arguments| {
            let text = arguments.bytes(2, "text")?;
            let start = start(arguments, text.len())?;
            let found = (start <= text.len())
                .then(|| regex.captures_at(text, start))
                .flatten();
            let Some((captures, whole)) =
                found.and_then(|one| one.get(0).map(|whole| (one, whole)))
            else {
                return Ok(Value::Nil.into());
            };
            Ok(Results::Several(vec![
                Value::Integer(whole.start() as i64 + 1),
                Value::Integer(whole.end() as i64),
                groups(regex, &captures),
            ]))
        })
    }
}

unsafe extern "C-unwind" fn first(state: *mut lua_State) -> c_int {
    // SAFETY: as above.
    unsafe {
        run(state, "regex:match", |regex, arguments| {
            let text = arguments.bytes(2, "text")?;
            let start = start(arguments, text.len())?;
            let found = (start <= text.len())
                .then(|| regex.captures_at(text, start))
                .flatten();
            Ok(found
                .map_or(Value::Nil, |captures| groups(regex, &captures))
                .into())
        })
    }
}

unsafe extern "C-unwind" fn split_text(state: *mut lua_State) -> c_int {
    // SAFETY: as above.
    unsafe {
        run(state, "regex:split", |regex, arguments| {
            let text = arguments.bytes(2, "text")?;
            Ok(split(regex, text, limit(arguments, 3, 1)?)?.into())
        })
    }
}

/// Returns the iterator: a closure with the regular expression, the text, the next position and the last end.
unsafe extern "C-unwind" fn gmatch(state: *mut lua_State) -> c_int {
    // SAFETY: a C function of Lua; the check has ended before the closure is made.
    unsafe {
        let shared = Shared::of(state);
        ffi::lua_settop(state, 2);
        attempt(state, shared, "regex:gmatch", |arguments| {
            own(state, shared, 1, arguments)?;
            arguments.bytes(2, "text").map(|_| ())
        });
        ffi::lua_pushvalue(state, OWN);
        ffi::lua_pushvalue(state, 1);
        ffi::lua_pushvalue(state, 2);
        ffi::lua_pushinteger(state, 0);
        ffi::lua_pushinteger(state, -1);
        shared.push_function(state, following, 5);
        1
    }
}

unsafe extern "C-unwind" fn following(state: *mut lua_State) -> c_int {
    let [regex, text, at, last] = [3, 4, 5, 6].map(ffi::lua_upvalueindex);
    // SAFETY: only `gmatch` makes this closure; integers replace integers, which allocates nothing.
    unsafe {
        let shared = Shared::of(state);
        ffi::lua_settop(state, 0);
        answer(state, shared, "regex:gmatch", |arguments| {
            let regex = own(state, shared, regex, arguments)?;
            let text = bytes_at(state, text).unwrap_or_default();
            let integer = |index| ffi::lua_tointegerx(state, index, std::ptr::null_mut());
            let mut walk = Walk {
                at: integer(at) as usize,
                last_end: usize::try_from(integer(last)).ok(),
            };
            let found = walk.next(&regex, text);
            let next = found.as_ref().map_or(text.len() + 1, |_| walk.at);
            ffi::lua_pushinteger(state, next as i64);
            ffi::lua_replace(state, at);
            ffi::lua_pushinteger(state, walk.last_end.map_or(-1, |end| end as i64));
            ffi::lua_replace(state, last);
            Ok(found
                .map_or(Value::Nil, |captures| groups(&regex, &captures))
                .into())
        })
    }
}

unsafe extern "C-unwind" fn replace(state: *mut lua_State) -> c_int {
    // SAFETY: a C function of Lua with the upvalues of a method.
    unsafe {
        ffi::lua_settop(state, 4);
        if ffi::lua_type(state, 3) == ffi::LUA_TFUNCTION {
            return replace_by_function(state);
        }
        run(state, "regex:replace", |regex, arguments| {
            let text = arguments.bytes(2, "text")?;
            let with = arguments.bytes(3, "with")?;
            let template = Template::of(with, regex)
                .map_err(|reason| arguments.invalid(format!("`with` {reason}")))?;
            let limit = limit(arguments, 4, 0)?;
            let (text, count) = replaced(regex, text, &template, limit, arguments.shared.memory)?;
            Ok(Results::Several(vec![
                Value::Bytes(text.into()),
                Value::Integer(count as i64),
            ]))
        })
    }
}

/// The table with the parts of the result.
const PARTS: c_int = 5;

/// Between two matches only plain data is pending, since the function may raise.
unsafe fn replace_by_function(state: *mut lua_State) -> c_int {
    const PATH: &str = "regex:replace";
    // SAFETY: a C function of Lua whose stack has four values. The text stays on it.
    unsafe {
        let shared = Shared::of(state);
        let limit = attempt(state, shared, PATH, |arguments| {
            arguments.bytes(2, "text")?;
            limit(arguments, 4, 0)
        });
        let text = bytes_at(state, 2).unwrap_or_default();
        ffi::lua_createtable(state, 0, 0);
        let (mut walk, mut copied, mut count, mut parts) = (Walk::default(), 0, 0, 0);
        while count < limit {
            let mut found = None;
            answer(state, shared, PATH, |arguments| {
                let regex = own(state, shared, 1, arguments)?;
                let Some(captures) = walk.next(&regex, text) else {
                    return Ok(Value::Nil.into());
                };
                found = captures.get(0).map(|whole| (whole.start(), whole.end()));
                Ok(groups(&regex, &captures).into())
            });
            let Some((from, to)) = found else { break };
            ffi::lua_pushvalue(state, 3);
            ffi::lua_insert(state, -2);
            ffi::lua_callk(state, 1, 1, 0, None);
            match ffi::lua_type(state, -1) {
                ffi::LUA_TSTRING => {}
                ffi::LUA_TNIL => push_bytes(state, &text[from..to]),
                ffi::LUA_TBOOLEAN if ffi::lua_toboolean(state, -1) == 0 => {
                    push_bytes(state, &text[from..to]);
                }
                _ => attempt(state, shared, PATH, |arguments| {
                    let found = type_name(state, -1);
                    Err(arguments.invalid(format!(
                        "the function returned {found}, not a string, or nil to keep the match"
                    )))
                }),
            }
            push_bytes(state, &text[copied..from]);
            ffi::lua_rawseti(state, PARTS, parts + 1);
            ffi::lua_rawseti(state, PARTS, parts + 2);
            ffi::lua_settop(state, PARTS);
            parts += 2;
            copied = to;
            count += 1;
        }
        ffi::lua_settop(state, PARTS);
        push_bytes(state, &text[copied..]);
        ffi::lua_rawseti(state, PARTS, parts + 1);
        answer(state, shared, PATH, |_| Ok(joined(state, parts + 1).into()));
        ffi::lua_pushinteger(state, count as i64);
        2
    }
}

/// The strings of the table of parts, one behind the other: they lie in Lua's memory, so their sum is bounded.
unsafe fn joined(state: *mut lua_State, count: i64) -> Vec<u8> {
    let mut text = Vec::new();
    for index in 1..=count {
        // SAFETY: reads a field of a table, which allocates nothing.
        unsafe {
            ffi::lua_rawgeti(state, PARTS, index);
            text.extend_from_slice(bytes_at(state, -1).unwrap_or_default());
            ffi::lua_pop(state, 1);
        }
    }
    text
}

/// The pattern.
unsafe extern "C-unwind" fn text(state: *mut lua_State) -> c_int {
    // SAFETY: a C function of Lua; `own` leaves the stack as it was.
    unsafe {
        let shared = Shared::of(state);
        ffi::lua_settop(state, 1);
        attempt(state, shared, "tostring", |arguments| {
            own(state, shared, 1, arguments).map(|_| ())
        });
        ffi::lua_getiuservalue(state, 1, PATTERN);
        1
    }
}
