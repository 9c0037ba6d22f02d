//! Black-box tests of the real binary.

mod dev; // init, dev and send, as a newcomer meets them
mod docs; // what the documents show is what the program takes
mod examples; // every example does what its README says
