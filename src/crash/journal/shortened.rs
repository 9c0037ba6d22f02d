//! The guard of a mapped file that another process may shorten.
//!
//! A process of the same user, or root, can shorten the journal under a running daemon: `> running` is enough. The
//! next store beyond the new end would be a SIGBUS, and the end of the daemon without a line in its log. The handler
//! of this signal puts a page of plain memory in the place of the lost one, and notes it. The store is then repeated,
//! and the daemon goes on with a journal that reaches no further process.
#![expect(
    unsafe_code,
    reason = "a signal handler, and memory that it maps in the place of a lost page"
)]

use std::io;
use std::ptr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use memmap2::MmapRaw;

/// A handler has no other way to know of the mappings than static state. A daemon has one; tests have some at once.
const RANGES_MAX: usize = 64;
static RANGES: [Range; RANGES_MAX] = [const { Range::new() }; RANGES_MAX];
/// Set before the handler is.
static PAGE_BYTES: AtomicUsize = AtomicUsize::new(0);
/// The handler from before, Rust's own for stacks that overflow.
static BEFORE: OnceLock<libc::sigaction> = OnceLock::new();

struct Range {
    is_taken: AtomicBool,
    start: AtomicUsize,
    /// 0 for no mapping; it is written last and cleared first.
    end: AtomicUsize,
    is_shortened: AtomicBool,
}

impl Range {
    const fn new() -> Self {
        Self {
            is_taken: AtomicBool::new(false),
            start: AtomicUsize::new(0),
            end: AtomicUsize::new(0),
            is_shortened: AtomicBool::new(false),
        }
    }

    fn has(&self, address: usize) -> bool {
        address < self.end.load(Ordering::SeqCst) && self.start.load(Ordering::SeqCst) <= address
    }
}

/// Keeps the process alive when the mapped file is shortened. It is dropped before its mapping.
pub(super) struct Guard(&'static Range);

impl Guard {
    /// The mapping stays where it is as long as this lives.
    pub(super) fn new(map: &MmapRaw) -> io::Result<Self> {
        install()?;
        let is_free = |range: &&Range| !range.is_taken.swap(true, Ordering::SeqCst);
        let range = RANGES
            .iter()
            .find(is_free)
            .ok_or_else(|| io::Error::other("too many journals in this process"))?;
        range.is_shortened.store(false, Ordering::SeqCst);
        let start = map.as_ptr().addr();
        range.start.store(start, Ordering::SeqCst);
        range.end.store(start + map.len(), Ordering::SeqCst);
        Ok(Self(range))
    }

    /// Whether a part of the file is lost.
    pub(super) fn is_shortened(&self) -> bool {
        self.0.is_shortened.load(Ordering::Relaxed)
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.end.store(0, Ordering::SeqCst);
        self.0.is_taken.store(false, Ordering::SeqCst);
    }
}

fn install() -> io::Result<()> {
    if BEFORE.get().is_some() {
        return Ok(());
    }
    // SAFETY: sysconf has no precondition.
    let bytes = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    let bytes = usize::try_from(bytes).map_err(|_| io::Error::last_os_error())?;
    PAGE_BYTES.store(bytes, Ordering::SeqCst);
    // SAFETY: both actions are whole and local; the first call only reads. Two threads at once read the same action
    // from before: the handler is set after the cell.
    unsafe {
        let mut before: libc::sigaction = std::mem::zeroed();
        if libc::sigaction(libc::SIGBUS, ptr::null(), &raw mut before) != 0 {
            return Err(io::Error::last_os_error());
        }
        if BEFORE.set(before).is_err() {
            return Ok(());
        }
        let mut action: libc::sigaction = std::mem::zeroed();
        let handler: Handler = on_bus_error;
        action.sa_sigaction = handler as libc::sighandler_t;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        libc::sigemptyset(&raw mut action.sa_mask);
        if libc::sigaction(libc::SIGBUS, &raw const action, ptr::null_mut()) != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

type Handler = extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void);

/// Uses atomics and system calls alone: no lock, no allocation.
extern "C" fn on_bus_error(
    signal: libc::c_int,
    info: *mut libc::siginfo_t,
    context: *mut libc::c_void,
) {
    // SAFETY: the kernel passes a whole `siginfo_t` of this signal.
    let address = unsafe { (*info).si_addr() }.addr();
    let range = RANGES.iter().find(|range| range.has(address));
    if range.is_some_and(|range| replace_page(range, address)) {
        return;
    }
    let before = BEFORE.get();
    let handler = before.map_or(libc::SIG_DFL, |before| before.sa_sigaction);
    // SAFETY: the handler from before has the type that its flags say. Without one the default takes over, and the
    // access that is repeated ends the process.
    unsafe {
        if handler == libc::SIG_DFL || handler == libc::SIG_IGN {
            libc::signal(signal, libc::SIG_DFL);
        } else if before.is_some_and(|before| before.sa_flags & libc::SA_SIGINFO != 0) {
            std::mem::transmute::<libc::sighandler_t, Handler>(handler)(signal, info, context);
        } else {
            let handler =
                std::mem::transmute::<libc::sighandler_t, extern "C" fn(libc::c_int)>(handler);
            handler(signal);
        }
    }
}

/// Puts plain memory in the place of the page with this address.
fn replace_page(range: &Range, address: usize) -> bool {
    let bytes = PAGE_BYTES.load(Ordering::SeqCst);
    let start = ptr::without_provenance_mut(address & !(bytes - 1));
    // SAFETY: the page belongs to a mapping of this process, which its guard outlives, and whose bytes the shortening
    // has taken away. Everyone who looks at it takes any bytes. `errno` belongs to the code that was interrupted.
    unsafe {
        let errno = *libc::__errno_location();
        let page = libc::mmap(
            start,
            bytes,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED,
            -1,
            0,
        );
        *libc::__errno_location() = errno;
        if page == libc::MAP_FAILED {
            return false;
        }
    }
    range.is_shortened.store(true, Ordering::SeqCst);
    true
}
