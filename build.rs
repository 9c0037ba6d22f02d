//! Lets C modules that handlers load find Lua's API in the program itself.
//!
//! Lua's symbols only: were OpenSSL's or librdkafka's exported too, a module that brings its own would get ours.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    for pattern in ["lua_*", "luaL_*", "luaopen_*"] {
        println!("cargo:rustc-link-arg=-Wl,--export-dynamic-symbol={pattern}");
    }
}
