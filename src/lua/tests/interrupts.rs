//! C functions of ours that work for long look at the watchdog.

use crate::lua::tests::limits::is_ended;
use crate::lua::tests::*;

/// Far more values than any limit of memory would end in time.
const MANY_WAYS: &str = "local large, all = {}, {} for i = 1, 20000 do large[i] = i end \
                         for i = 1, 20000 do all[i] = large end";
/// As many, and no text of them.
const MANY_EMPTY: &str = "local large, all = {}, {} for i = 1, 200000 do large['k' .. i] = i end \
                          for k in pairs(large) do large[k] = nil end for i = 1, 20000 do all[i] = large end";

#[test]
fn encode_ends_with_its_call() {
    for tables in [MANY_WAYS, MANY_EMPTY] {
        is_ended(&format!("{tables} tide.json.encode(all)"));
        is_ended(&format!(
            "{tables} while true do pcall(tide.json.encode, all) end"
        ));
    }
}

#[test]
fn decode_ends_with_its_call() {
    is_ended(
        "local text = '[' .. string.rep('[],', 8000000) .. '1]' while true do tide.json.decode(text) end",
    );
    is_ended(
        "local text = '[' .. string.rep('0,', 8000000) .. '1]' while true do tide.json.decode(text) end",
    );
}

#[test]
fn the_fields_of_a_line_end_with_their_call() {
    is_ended(&format!(
        "{MANY_EMPTY} while true do ctx.logger.info('x', all) end"
    ));
}

#[test]
fn copies_end_with_their_call() {
    is_ended(
        "local long = string.rep('x', 1 << 20) local all = {} for i = 1, 900000 do all[i] = long end \
         while true do pcall(ctx.app.setAttr, 'x', all) end",
    );
}

/// Keys at the powers of two, none of them in the array part, make Lua take the table for one of 2^63 elements.
#[test]
fn a_table_with_gaps_makes_no_endless_loop() {
    let gaps = "local keys = {} for i = 0, 62 do keys[i + 1] = ('[%d]=0'):format(1 << i) end \
                local gaps = load('return {' .. table.concat(keys, ',') .. ',[math.maxinteger]=0}')() \
                assert(#gaps == math.maxinteger)";
    passes(&format!(
        "{gaps} message.headers.gaps = gaps assert(#ctx.headers('gaps') == 2)"
    ));
    is_ended(&format!("{gaps} tide.json.encode(tide.json.array(gaps))"));
}
