//! What the processes of `io.popen` and `os.execute` inherit, and what all VMs share.

#![expect(unsafe_code, reason = "a pipe that exec does not close")]

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use crate::lua::tests::*;

#[test]
fn a_child_does_not_ignore_sigpipe() {
    passes(
        r"
        local ignored = io.popen('grep SigIgn /proc/self/status'):read('a')
        local mask = tonumber(ignored:match('SigIgn:%s*(%x+)'), 16)
        assert(mask & (1 << 12) == 0, ignored)
        assert(os.execute('grep -q SigIgn:.*[02468ace]...$ /proc/self/status'))
        ",
    );
}

#[test]
fn a_child_gets_no_descriptor_of_the_daemon() {
    let mut ends = [0; 2];
    // SAFETY: two descriptors are written, which are ours from here on.
    let (reader, _writer) = unsafe {
        assert_eq!(libc::pipe(ends.as_mut_ptr()), 0);
        (OwnedFd::from_raw_fd(ends[0]), OwnedFd::from_raw_fd(ends[1]))
    };
    let inherited = reader.as_raw_fd();
    passes(&format!(
        "local found = io.popen('test -e /proc/self/fd/{inherited}; echo $?'):read('l') assert(found == '1', found) \
         assert(not os.execute('test -e /proc/self/fd/{inherited}'))"
    ));
}

#[test]
fn the_locale_is_told_and_not_changed() {
    passes("assert(os.setlocale() == 'C' and os.setlocale(nil, 'numeric') == 'C')");
    for body in ["os.setlocale('')", "os.setlocale('C', 'numeric')"] {
        let failure = fails(body);
        assert!(
            failure.message.contains("`os.setlocale` would change"),
            "{}",
            failure.message
        );
    }
}
