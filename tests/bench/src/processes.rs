//! What the kernel says about a process: processor time and memory.

use std::time::Duration;

use anyhow::{Context, Result};

/// User and system time of a process with all its threads, so far.
pub(crate) fn cpu_time(process: u32) -> Result<Duration> {
    let path = format!("/proc/{process}/stat");
    let stat = std::fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
    let ticks = ticks(&stat).with_context(|| format!("no times in {path}"))?;
    Ok(Duration::from_secs_f64(ticks as f64 / rustix::param::clock_ticks_per_second() as f64))
}

/// User and system time of all processes of a group, so far. Those that ended took theirs with them.
pub(crate) fn cpu_time_of_group(leader: u32) -> Result<Duration> {
    let mut sum = 0;
    for entry in std::fs::read_dir("/proc").context("reading /proc")? {
        let path = entry.context("reading /proc")?.path().join("stat");
        // What is no process has no such file, and a process may end meanwhile.
        let Ok(stat) = std::fs::read_to_string(path) else {
            continue;
        };
        if group(&stat) == Some(leader) {
            sum += ticks(&stat).unwrap_or_default();
        }
    }
    Ok(Duration::from_secs_f64(sum as f64 / rustix::param::clock_ticks_per_second() as f64))
}

/// The process group in the line of `/proc/PID/stat`.
fn group(stat: &str) -> Option<u32> {
    let (_, fields) = stat.rsplit_once(") ")?;
    fields.split(' ').nth(2)?.parse().ok()
}

/// User and system time in the line of `/proc/PID/stat`, in clock ticks.
fn ticks(stat: &str) -> Option<u64> {
    // The second field is the program's name, which may itself have blanks and brackets.
    let (_, fields) = stat.rsplit_once(") ")?;
    let mut fields = fields.split(' ').skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

/// The time all processors of this machine worked for processes so far, that which its host took away included.
///
/// Interrupts are left out: no process is charged for them.
pub(crate) fn machine_time() -> Result<Duration> {
    let stat = std::fs::read_to_string("/proc/stat").context("reading /proc/stat")?;
    let ticks = busy(&stat).context("no times in /proc/stat")?;
    Ok(Duration::from_secs_f64(ticks as f64 / rustix::param::clock_ticks_per_second() as f64))
}

/// User, nice, system and stolen time in `/proc/stat`, in clock ticks.
fn busy(stat: &str) -> Option<u64> {
    let all = stat.lines().find_map(|line| line.strip_prefix("cpu "))?;
    let times: Vec<u64> = all.split_whitespace().map_while(|time| time.parse().ok()).collect();
    Some([0, 1, 2, 7].iter().filter_map(|&index| times.get(index)).sum())
}

/// Resident memory of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Memory {
    /// Now, in bytes.
    pub(crate) resident: u64,
    /// The most it ever was, in bytes.
    pub(crate) peak: u64,
}

/// Resident memory of a process.
pub(crate) fn memory(process: u32) -> Result<Memory> {
    let path = format!("/proc/{process}/status");
    let status = std::fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
    resident(&status).with_context(|| format!("no memory in {path}"))
}

fn resident(status: &str) -> Option<Memory> {
    let bytes = |name: &str| -> Option<u64> {
        let value = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        Some(value.trim().strip_suffix(" kB")?.parse::<u64>().ok()? * 1024)
    };
    Some(Memory { resident: bytes("VmRSS")?, peak: bytes("VmHWM")? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_found_behind_a_name_with_brackets_and_blanks() {
        let stat = "17 (ev) (o ke) S 1 17 17 0 -1 4194560 900 0 0 0 150 25 0 0 20 0 4 0 8 1000 200";

        assert_eq!((ticks(stat), group(stat)), (Some(175), Some(17)));
        assert_eq!(ticks("17 (evoke) S 1"), None);
    }

    #[test]
    fn the_machine_works_for_processes_and_for_its_host() {
        let stat = "cpu  100 20 30 9000 500 7 8 4 0 0\ncpu0 50 10 15 4500 250 3 4 2 0 0\n";

        assert_eq!(busy(stat), Some(154));
        assert_eq!(busy("intr 1 2 3\n"), None);
    }

    #[test]
    fn memory_is_told_in_bytes() {
        let status = "Name:\tevoke\nVmPeak:\t  900 kB\nVmHWM:\t   20 kB\nVmRSS:\t   10 kB\nThreads:\t4\n";

        assert_eq!(resident(status), Some(Memory { resident: 10_240, peak: 20_480 }));
        assert_eq!(resident("Name:\tzombie\n"), None);
    }

    #[test]
    fn this_process_has_used_time_and_memory() {
        let mut sum = 0_u64;
        while cpu_time(std::process::id()).unwrap() == Duration::ZERO {
            sum = std::hint::black_box(sum.wrapping_mul(31).wrapping_add(7));
        }

        let group = rustix::process::getpgrp().as_raw_nonzero().get().unsigned_abs();
        assert!(cpu_time_of_group(group).unwrap() > Duration::ZERO);
        let memory = memory(std::process::id()).unwrap();
        assert!(memory.resident > 0 && memory.peak >= memory.resident, "{memory:?}");
    }
}
