//! `tide.env`.

use crate::lua::tests::*;

/// Cargo sets these variables for tests.
#[test]
fn only_listed_variables_are_read() {
    let mut setup = handler(
        r#"
        assert(tide.env("CARGO_PKG_NAME") == "moontide")
        assert(tide.env("CARGO_PKG_VERSION"):find("^%d"))
        assert(tide.env("MOONTIDE_TEST_UNSET") == nil)
        local function refused(name)
          local ok, err = pcall(tide.env, name)
          assert(not ok and tide.error.is(err, "refused"), tostring(err))
          return tostring(err)
        end
        assert(refused("PATH"):find("the variable `PATH` may not be read: it is not in the list `[lua] env` of the configuration", 1, true))
        refused("CARGO_PKG")
        refused("")
        refused("CARGO_PKG_NAME\0")
        "#,
    );
    setup.env = EnvNames::parsed(&["CARGO_PKG_NAME", "CARGO_PKG_V*", "MOONTIDE_TEST_*"]);
    match setup.build().run() {
        Step::Done => {}
        step => panic!("{step:?}"),
    }
}

#[test]
fn without_a_list_nothing_is_read() {
    let message = fails("return tide.env('HOME')").message;
    let expected = "`tide.env`: the variable `HOME` may not be read: it is not in the list `[lua] env` of the configuration";
    assert_eq!(message, format!("handlers/h.lua:2: {expected}"));
    let message = fails("return tide.env()").message;
    assert!(message.ends_with("`tide.env` takes `name` as a string, not no value"));
}
