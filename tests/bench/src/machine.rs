//! Where it was measured, and what.

use std::path::Path;
use std::process::Command;
use std::time::SystemTime;

use anyhow::{Context, Result};
use serde::Serialize;

use crate::Bench;

/// Where it was measured, and what. Figures of two machines say nothing about each other; ratios do.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Machine {
    pub(crate) measured: String,
    pub(crate) evoke: Option<String>,
    /// Whether this program was built without optimisation; then nothing here means anything.
    pub(crate) debug_build: bool,
    pub(crate) processors: usize,
    pub(crate) model: String,
    pub(crate) kernel: String,
    pub(crate) filesystem: String,
}

/// Describes this machine.
pub(crate) fn describe(bench: &Bench) -> Result<Machine> {
    let read = |path: &str| std::fs::read_to_string(path).with_context(|| format!("reading {path}"));
    let evoke = match &bench.evoke {
        None => None,
        Some(binary) => {
            let output = Command::new(binary)
                .arg("--version")
                .env_clear()
                .output()
                .context("asking for its version")?;
            Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
        }
    };
    let processors = read("/proc/cpuinfo")?;
    let model = processors.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let dir = bench.dir.canonicalize().context("asking where it is written")?;
    Ok(Machine {
        measured: humantime::format_rfc3339_seconds(SystemTime::now()).to_string(),
        evoke,
        debug_build: cfg!(debug_assertions),
        processors: std::thread::available_parallelism()?.get(),
        model: model.map_or("unknown processor", |(_, name)| name).to_owned(),
        kernel: read("/proc/sys/kernel/osrelease")?.trim().to_owned(),
        filesystem: filesystem(&read("/proc/self/mounts")?, &dir).unwrap_or_else(|| "unknown".to_owned()),
    })
}

/// The type of the filesystem a directory is on: that of the mount point nearest above it, the last mounted one.
fn filesystem(mounts: &str, dir: &Path) -> Option<String> {
    mounts
        .lines()
        .filter_map(|line| {
            let mut fields = line.split(' ').skip(1);
            Some((Path::new(fields.next()?), fields.next()?))
        })
        .filter(|(point, _)| dir.starts_with(point))
        .max_by_key(|(point, _)| point.components().count())
        .map(|(_, kind)| kind.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_mount_point_above_counts() {
        let mounts = "/dev/a / ext4 rw 0 0\ntmpfs /tmp tmpfs rw 0 0\n/dev/b /data xfs rw 0 0\n/dev/c /data btrfs rw 0 0\n";
        let of = |dir| filesystem(mounts, Path::new(dir));

        assert_eq!(of("/tmp/x").as_deref(), Some("tmpfs"));
        assert_eq!(of("/tmpx").as_deref(), Some("ext4"));
        assert_eq!(of("/data/x/y").as_deref(), Some("btrfs"));
    }
}
