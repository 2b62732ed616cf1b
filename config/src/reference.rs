//! The reference file, made from the declarations.

use std::fmt::Write as _;

use crate::config::Config;
use crate::section::{Declared, Findings, read_root};
use crate::tree::{Node, Origin};

const HEADER: &str = "\
# Every key of Evoke's configuration, with its meaning and its default. `evoke config reference` prints this file.
#
# Order: built-in, file, environment, flags; a later one replaces an earlier one, key by key. A variable's name is EVOKE_
# and the key's path in upper case with __ between levels (EVOKE_GATEWAY__URL). The variables of OpenFaaS' queue-worker
# and connectors are understood too, below EVOKE_… and above the file. `evoke config show` prints what counts and why.
#
# Times and sizes carry their unit: 500ms 10s 5m 1h 1d, 512B 64KiB 10MB 64MiB 1GiB. `none` takes a value away.
# Every key is there since 0.1.0. SIGHUP reads the configuration again.
";

/// The commented reference file: every key at its default. It is a configuration itself.
pub fn reference() -> String {
    let (_, findings): (Config, Findings) = read_root(&Node::empty_map(Origin::BuiltIn));
    let mut text = HEADER.to_owned();
    for Declared { path, docs, default } in &findings.declared {
        let level = path.matches('.').count();
        let indent = "  ".repeat(level);
        if level == 0 {
            text.push('\n');
        }
        for line in *docs {
            let _ = writeln!(text, "{}", format!("{indent}#{line}").trim_end());
        }
        let name = path.rsplit('.').next().unwrap_or(path);
        let has_keys = findings.declared.iter().any(|other| other.path.starts_with(&format!("{path}.")));
        let _ = match default {
            Some(value) => writeln!(text, "{indent}{name}: {value}"),
            None if has_keys => writeln!(text, "{indent}{name}:"),
            None => writeln!(text, "{indent}{name}: {{}}"),
        };
    }
    text
}
