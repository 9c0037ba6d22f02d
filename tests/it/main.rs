//! Black-box tests of the real binary.

mod support;

mod listeners; // which handler gets which message
