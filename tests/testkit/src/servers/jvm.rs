//! What the servers on the JVM have in common.

use std::path::PathBuf;

use super::{found_on_path, paths};
use crate::process::Program;

/// What `tests/prepare` laid down for a server.
pub(super) struct Prepared {
    /// Its class path, as jars of one folder.
    jars: PathBuf,
    /// What was made by running it once with this Java.
    pub(super) warm: PathBuf,
}

/// Prepares a server, unless it is prepared.
pub(super) fn prepared(name: &str) -> Result<Prepared, String> {
    match paths(name)?.as_slice() {
        [jars, warm] => Ok(Prepared { jars: jars.clone(), warm: warm.clone() }),
        other => Err(format!("tests/prepare says {other:?} for {name}, which should be two folders")),
    }
}

impl Prepared {
    /// A JVM with its classes, about to be told what to run. The same as `on_java` in `tests/prepare`: an archive of
    /// classes serves only the JVM settings and the class path that it was made with.
    pub(super) fn program(&self, archive: &str, settings: &[&str]) -> Result<Program, String> {
        let mut jars: Vec<PathBuf> = std::fs::read_dir(&self.jars)
            .and_then(|entries| entries.map(|entry| entry.map(|entry| entry.path())).collect())
            .map_err(|error| format!("cannot list {}: {error}", self.jars.display()))?;
        jars.sort();
        let class_path = std::env::join_paths(jars).map_err(|error| error.to_string())?;
        let java = found_on_path("java").ok_or("java is not there")?;
        let mut shared = std::ffi::OsString::from("-XX:SharedArchiveFile=");
        shared.push(self.warm.join(archive));
        Ok(Program::new(java)
            // An archive that does not fit is left out, which only costs time.
            .arguments([
                "-Xms64m",
                "-Xmx256m",
                "-XX:+UseSerialGC",
                "-XX:TieredStopAtLevel=1",
                "-XX:-UsePerfData",
            ])
            .arguments(["-XX:+ExitOnOutOfMemoryError", "-Xshare:auto"])
            .argument(shared)
            .arguments(settings.iter().copied())
            .argument("-cp")
            .argument(class_path)
            .errors(|_| false))
    }
}
