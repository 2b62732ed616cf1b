//! Real servers on free ports of loopback, each its own process, ended with the test.
//!
//! Nothing is mocked that Debian packages. A missing server is installed by `tests/prepare test`, which says what it does.

pub mod certificates;
pub mod nats;
pub mod relay;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

pub use certificates::Certificates;
pub use nats::{NatsConfig, NatsServer};
pub use relay::Relay;

/// Where a server's program is.
///
/// # Panics
/// When it is not there and cannot be installed.
fn installed(program: &str) -> PathBuf {
    static PREPARED: OnceLock<()> = OnceLock::new();
    find(program).unwrap_or_else(|| {
        PREPARED.get_or_init(prepare);
        find(program).unwrap_or_else(|| panic!("{program} is not there after tests/prepare test"))
    })
}

fn find(program: &str) -> Option<PathBuf> {
    // Debian keeps servers in sbin, which is not on everybody's path.
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain([PathBuf::from("/usr/sbin")])
        .map(|folder| folder.join(program))
        .find(|path| path.is_file())
}

fn prepare() {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../prepare");
    let done = Command::new(&script).arg("test").status();
    assert!(done.as_ref().is_ok_and(std::process::ExitStatus::success), "{script:?} test: {done:?}");
}
