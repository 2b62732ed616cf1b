//! The reference file and the code say the same.

use broker_config::{Origin, reference};

use crate::{Given, assert_is_file};

#[test]
fn the_reference_file_is_what_the_code_says() {
    assert_is_file("evoke.yaml", &reference());
}

#[test]
fn the_reference_file_has_every_key_at_its_default() {
    let text = reference();

    let from_file = Given { file: Some(("evoke.yaml", &text)), ..Given::default() }.loaded();
    let built_in = Given::default().loaded();

    assert_eq!(built_in.changes_to(&from_file), []);
    let missing: Vec<&str> = from_file
        .leaves
        .iter()
        .filter(|leaf| leaf.origin == Origin::BuiltIn)
        .map(|leaf| leaf.key.as_str())
        .collect();
    assert_eq!(missing, [""; 0], "keys that stand in the code and not in the file");
}

#[test]
fn every_key_of_the_reference_is_explained() {
    let text = reference();

    let mut explained = false;
    for line in text.lines().map(str::trim) {
        let is_comment = line.starts_with('#');
        assert!(is_comment || line.is_empty() || explained, "{line:?} has no comment");
        explained = is_comment;
    }
}
