//! What tests/README.md says is tested, and the tests there are.

use std::collections::HashSet;
use std::path::Path;

use crate::transcript::page;

/// The names of all functions in the Rust sources below a folder.
fn functions(folder: &Path, names: &mut HashSet<String>) {
    for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
        let path = entry.path();
        if entry.file_type().unwrap().is_dir() {
            functions(&path, names);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = std::fs::read_to_string(&path).unwrap();
            let heads = text.lines().filter_map(|line| line.trim_start().split_once("fn "));
            names.extend(heads.filter_map(|(_, rest)| rest.split_once('(')).map(|(name, _)| name.to_owned()));
        }
    }
}

#[test]
fn every_fault_has_the_tests_its_table_names() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut names = HashSet::new();
    for folder in ["broker", "config", "connectors", "tests"] {
        functions(&root.join(folder), &mut names);
    }
    let (_, text) = page("tests/README.md");
    // Below its head and the line that ends the head; the page has another table, of servers.
    let table = text.lines().skip_while(|line| !line.starts_with("| fault |")).skip(2);
    let rows: Vec<&str> = table.take_while(|line| line.starts_with("| ")).collect();

    for row in &rows {
        let tests = row.rsplit('|').nth(1).unwrap();
        let listed: Vec<&str> = tests.split('`').skip(1).step_by(2).collect();
        assert!(!listed.is_empty(), "{row}");
        for test in listed {
            assert!(names.contains(test), "{test} is in the table and not in the sources");
        }
    }
    assert!(rows.len() >= 30, "{} faults", rows.len());
}
