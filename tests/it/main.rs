//! Black-box tests of the real binary.

#![expect(clippy::unwrap_used, reason = "a test ends where it cannot go on")]

mod dev; // init, dev and send, as a newcomer meets them
mod docs; // what the documents show is what the program takes
mod examples; // every example does what its README says
