//! One thread of a daemon halted while the others go on, as a system call that does not return would do it.

#![expect(unsafe_code, reason = "ptrace is how one thread of a child is halted")]

use std::fs;
use std::ptr;

/// A thread that does not move until this is dropped, which the thread that made it has to do.
pub(crate) struct Halted(libc::pid_t);

impl Halted {
    /// By the name that the kernel knows, of 15 characters at most.
    pub(crate) fn thread(pid: i32, name: &str) -> Self {
        let mut tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
        let of_that_name = |entry: fs::DirEntry| {
            let comm = fs::read_to_string(entry.path().join("comm")).ok()?;
            let id = entry.file_name().to_str()?.parse().ok()?;
            (comm.trim_end() == name).then_some(id)
        };
        let thread: libc::pid_t = tasks
            .find_map(|entry| of_that_name(entry.unwrap()))
            .expect("a thread of that name");
        // SAFETY: neither address nor data are read for these requests; the thread is our child's.
        unsafe {
            for request in [libc::PTRACE_SEIZE, libc::PTRACE_INTERRUPT] {
                let result = libc::ptrace(
                    request,
                    thread,
                    ptr::null_mut::<libc::c_void>(),
                    ptr::null_mut::<libc::c_void>(),
                );
                assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
            }
            let mut status = 0;
            assert_eq!(libc::waitpid(thread, &raw mut status, libc::__WALL), thread);
        }
        Self(thread)
    }
}

impl Drop for Halted {
    fn drop(&mut self) {
        // SAFETY: as above. A thread that has ended meanwhile needs no letting go.
        unsafe {
            libc::ptrace(
                libc::PTRACE_DETACH,
                self.0,
                ptr::null_mut::<libc::c_void>(),
                ptr::null_mut::<libc::c_void>(),
            );
        }
    }
}
