//! Nothing but the exit code: the program is the library beside it.

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: moontide::Allocator = moontide::Allocator;

fn main() -> ExitCode {
    moontide::cli::main()
}
