//! The metrics of the process from `/proc/self`, under the names that every exporter uses.
//!
//! A value that cannot be read is left out; nothing here fails.

use std::fs;

#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Process {
    pub(crate) cpu_seconds: Option<f64>,
    pub(crate) resident_bytes: Option<u64>,
    pub(crate) virtual_bytes: Option<u64>,
    pub(crate) open_fds: Option<u64>,
    pub(crate) max_fds: Option<u64>,
    pub(crate) threads: Option<u64>,
}

/// The kernel reports processor time to user space in hundredths of a second, whatever its own clock.
const TICKS_PER_SECOND: f64 = 100.0;

impl Process {
    pub(crate) fn look() -> Self {
        let read =
            |name: &str| fs::read_to_string(format!("/proc/self/{name}")).unwrap_or_default();
        Self {
            // This reading has one descriptor open itself, which is not worth a correction.
            open_fds: fs::read_dir("/proc/self/fd")
                .ok()
                .map(|folder| folder.count() as u64),
            ..Self::of(&read("stat"), &read("status"), &read("limits"))
        }
    }

    fn of(stat: &str, status: &str, limits: &str) -> Self {
        let kilobytes = |name: &str| Some(field(status, name)?.parse::<u64>().ok()? * 1024);
        Self {
            cpu_seconds: cpu_ticks(stat).map(|ticks| ticks as f64 / TICKS_PER_SECOND),
            resident_bytes: kilobytes("VmRSS:"),
            virtual_bytes: kilobytes("VmSize:"),
            open_fds: None,
            max_fds: field(limits, "Max open files").and_then(|soft| soft.parse().ok()),
            threads: field(status, "Threads:").and_then(|count| count.parse().ok()),
        }
    }
}

/// The first word after the name of a line.
fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()
}

/// `utime` and `stime`, the 14th and 15th field; the second field is the command and may contain any character.
fn cpu_ticks(stat: &str) -> Option<u64> {
    let behind = stat.rsplit_once(')')?.1;
    let mut fields = behind.split_whitespace().skip(11);
    let (user, system): (u64, u64) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    Some(user + system)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_files_of_the_kernel_are_read_by_their_names() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194304 1 0 0 0 250 50 0 0 20 0 9 0 100 1000 10";
        let status = "Name:\tx\nVmSize:\t    2048 kB\nVmRSS:\t    1024 kB\nThreads:\t9\n";
        let limits =
            "Limit  Soft Limit  Hard Limit  Units\nMax open files            1024   4096   files\n";
        let process = Process::of(stat, status, limits);
        assert_eq!(
            process,
            Process {
                cpu_seconds: Some(3.0),
                resident_bytes: Some(1 << 20),
                virtual_bytes: Some(2 << 20),
                open_fds: None,
                max_fds: Some(1024),
                threads: Some(9),
            }
        );
    }

    #[test]
    fn this_process_can_be_looked_at() {
        let process = Process::look();
        assert!(process.resident_bytes.is_some_and(|bytes| bytes > 1 << 20));
        assert!(process.open_fds.is_some_and(|count| count > 2));
        assert!(process.cpu_seconds.is_some());
    }

    #[test]
    fn what_is_not_there_is_left_out() {
        assert_eq!(Process::of("", "", "").cpu_seconds, None);
        assert_eq!(Process::of("", "", "").threads, None);
    }
}
