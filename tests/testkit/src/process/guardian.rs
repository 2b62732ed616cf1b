//! Ends what a test process started once the test process is no more, however it came to its end.
//!
//! A drop does that for a test that passes or fails. It does not for a process that is killed, nor for what is kept in a
//! static. So every test process has a guardian: a shell that reads from it until there is nothing more to come, and
//! then ends what carries the test process's mark in its environment, and removes the folders it was told.

use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::SystemTime;

/// The variable that every started process carries, and whatever it starts in turn.
pub(super) const MARK: &str = "TESTKIT_GUARDED_BY";

/// `$1` is the mark. A round that finds nobody is the last; nobody escapes SIGKILL for longer than the kernel needs.
const SCRIPT: &str = r#"
trap '' HUP INT TERM
mark=$1
shift
while IFS= read -r folder; do set -- "$@" "$folder"; done
rounds=0
while [ $rounds -lt 200 ] && found=$(grep -lzxF -e "$mark" /proc/[0-9]*/environ 2>/dev/null); [ -n "$found" ]; do
    for file in $found; do
        id=${file#/proc/}
        kill -9 "${id%/environ}" 2>/dev/null
    done
    rounds=$((rounds + 1))
    sleep 0.02
done
[ $# -eq 0 ] || rm -rf -- "$@"
"#;

struct Guardian {
    mark: String,
    // Reads until its end of the pipe is closed, which the system does when this process ends.
    shell: Mutex<Child>,
}

fn guardian() -> &'static Guardian {
    static GUARDIAN: OnceLock<Guardian> = OnceLock::new();
    GUARDIAN.get_or_init(|| {
        // Process ids come round again; together with the time of day they do not.
        let now = SystemTime::UNIX_EPOCH.elapsed().map_or(0, |now| now.as_nanos());
        let mark = format!("{}-{now}", std::process::id());
        let mut command = Command::new("/bin/sh");
        command.args(["-c", SCRIPT, "guardian", &format!("{MARK}={mark}")]);
        // A group and an environment of its own: neither an interrupt at the keyboard nor another guardian means it.
        command.env_clear().env("PATH", "/usr/bin:/bin").current_dir("/").process_group(0);
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let shell = command.spawn().unwrap_or_else(|error| panic!("cannot start /bin/sh: {error}"));
        Guardian { mark, shell: Mutex::new(shell) }
    })
}

/// The value of [`MARK`] for what this process starts.
pub(super) fn mark() -> &'static str {
    &guardian().mark
}

/// Has a folder removed at the end of this process, unless it is gone by then.
pub(crate) fn removes(folder: &Path) {
    let mut shell = guardian().shell.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(told) = &mut shell.stdin {
        // Without a guardian the folder stays in the system's temporary folder, which is swept anyway.
        let _ = writeln!(told, "{}", folder.display());
    }
}
