//! The last complete function list, kept on disk so that a restart knows who wants what before the gateway answers.
//!
//! A file of its own, replaced whole. It may be lost or damaged at any time: then the gateway's next list serves.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};

use broker_model::Timestamp;

use crate::gateway::listing::ListedFunction;

/// The only format so far.
const VERSION: u32 = 1;

#[derive(Serialize, Deserialize)]
struct Kept {
    version: u32,
    listed_at_ns: u64,
    functions: Vec<ListedFunction>,
}

/// Reads the list; `None` when none was kept.
///
/// # Errors
/// Why what is there cannot be used.
pub(crate) fn load(path: &Path) -> io::Result<Option<(Timestamp, Vec<ListedFunction>)>> {
    let text = match fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let kept: Kept = serde_json::from_slice(&text)?;
    if kept.version != VERSION {
        return Err(io::Error::other(format!("its format is {}, not {VERSION}", kept.version)));
    }
    Ok(Some((Timestamp::from_nanos(kept.listed_at_ns), kept.functions)))
}

/// Replaces the list: a reader, and a power cut, find the old one or the new one.
///
/// # Errors
/// The operating system's word.
pub(crate) fn save(path: &Path, listed_at: Timestamp, functions: &[ListedFunction]) -> io::Result<()> {
    let kept = Kept { version: VERSION, listed_at_ns: listed_at.as_nanos(), functions: functions.to_vec() };
    let text = serde_json::to_vec(&kept)?;
    let beside = path.with_extension("new");
    let mut file = File::create(&beside)?;
    file.write_all(&text)?;
    file.sync_all()?;
    fs::rename(&beside, path)?;
    match path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        Some(directory) => File::open(directory)?.sync_all(),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn what_was_kept_is_read_back_and_damage_is_said() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("functions.json");
        let listed = ListedFunction {
            name: "env".into(),
            namespace: Some("dev".into()),
            qualified: true,
            available_replicas: 2,
            max_inflight: std::num::NonZeroU32::new(5),
            annotations: BTreeMap::from([("topic".to_owned(), "t\n\"".to_owned())]),
        };
        assert!(load(&path).unwrap().is_none());

        save(&path, Timestamp::from_nanos(17), std::slice::from_ref(&listed)).unwrap();
        save(&path, Timestamp::from_nanos(18), std::slice::from_ref(&listed)).unwrap();

        assert_eq!(load(&path).unwrap(), Some((Timestamp::from_nanos(18), vec![listed])));
        fs::write(&path, &fs::read(&path).unwrap()[..20]).unwrap();
        assert!(load(&path).is_err());
        fs::write(&path, r#"{"version":9,"listed_at_ns":0,"functions":[]}"#).unwrap();
        assert!(load(&path).unwrap_err().to_string().contains("format"));
    }
}
