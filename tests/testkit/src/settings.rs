//! A connector's reference of settings, held equal to its code.

use std::collections::BTreeSet;
use std::fmt::Debug;

use connectors_sdk::{Reader, SourceName};
use serde_json::Value;

/// Makes the two tests of a connector's `reference.yaml`: its file, the names of its source and kind in it, the function
/// that reads settings (`fn(&SourceName, &mut Reader) -> Option<T>`), and settings that set only what is required.
#[macro_export]
macro_rules! settings_reference {
    ($file:literal, $source:literal, $kind:literal, $read:path, $minimal:expr) => {
        #[test]
        fn the_reference_says_what_the_code_does() {
            let reference = include_str!($file);
            $crate::settings::says_what_the_code_does(reference, ($source, $kind), $read, $minimal);
        }

        #[test]
        fn the_reference_holds_every_setting_and_no_other() {
            let reference = include_str!($file);
            $crate::settings::holds_every_setting_and_no_other(reference, ($source, $kind), $read);
        }
    };
}

/// What is written plainly in the reference is the default, but for what is required.
///
/// # Panics
/// When it is not.
pub fn says_what_the_code_does<T: Debug>(
    reference: &str,
    of: (&str, &str),
    read: impl Fn(&SourceName, &mut Reader) -> Option<T>,
    minimal: Value,
) {
    // What a default is does not matter to a comparison as long as it prints; secrets never do.
    let printed = |settings: Value| {
        let name = SourceName::parse(of.0).expect("a source's name");
        let mut at = Reader::new(settings);
        let settings = read(&name, &mut at);
        let settings =
            at.finish(|| settings).unwrap_or_else(|error| panic!("the reference is wrong: {error}"));
        format!("{settings:#?}")
    };
    assert_eq!(printed(settings_of(reference, of)), printed(minimal), "written plainly, but not the default");
}

/// Each setting there is stands in the reference, plainly or commented out (`#key: …`, no space), and no other does.
///
/// # Panics
/// When one is missing, or is not a setting.
pub fn holds_every_setting_and_no_other<T>(
    reference: &str,
    of: (&str, &str),
    read: impl Fn(&SourceName, &mut Reader) -> Option<T>,
) {
    let name = SourceName::parse(of.0).expect("a source's name");
    let mut at = Reader::new(Value::Object(serde_json::Map::new()));
    let _ = read(&name, &mut at);
    let open: BTreeSet<&str> = at.open().collect();
    let known: BTreeSet<String> = at.known().map(str::to_owned).collect();
    let mut written = BTreeSet::new();
    paths("", &settings_of(&uncommented(reference), of), &open, &mut written);
    assert_eq!(written, known, "left: the reference; right: the code");
}

fn settings_of(reference: &str, (source, kind): (&str, &str)) -> Value {
    let whole: Value = serde_saphyr::from_str(reference).expect("the reference is YAML");
    let settings = whole["sources"][source][kind].clone();
    assert!(settings.is_object(), "the reference has no sources.{source}.{kind}");
    settings
}

/// The reference with its commented settings put in.
fn uncommented(reference: &str) -> String {
    let lines = reference.lines().map(|line| match line.trim_start().strip_prefix('#') {
        Some(setting) if !setting.starts_with(' ') && !setting.is_empty() => {
            let indent = line.len() - line.trim_start().len();
            format!("{}{setting}\n", " ".repeat(indent))
        }
        _ => format!("{line}\n"),
    });
    lines.collect()
}

fn paths(prefix: &str, value: &Value, open: &BTreeSet<&str>, into: &mut BTreeSet<String>) {
    for (key, inner) in value.as_object().into_iter().flatten() {
        let path = format!("{prefix}{key}");
        // Below an open one names are the user's own.
        if !open.contains(path.as_str()) {
            paths(&format!("{path}."), inner, open, into);
        }
        into.insert(path);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::*;

    fn read(_: &SourceName, at: &mut Reader) -> Option<(String, Duration)> {
        let url: Option<String> = at.required("url", "x");
        let wait = at.or("wait", Duration::from_secs(5));
        let _ = at.table("tls", |at| at.optional::<String>("ca_file"));
        let _ = at.entries("names");
        Some((url?, wait))
    }

    const GOOD: &str = "
sources:
  a:
    test:
      # A word about it.
      url: x
      wait: 5s
      #tls:
        #ca_file: /ca.pem
      #names: { any: thing }
";

    fn check(reference: &str) {
        says_what_the_code_does(reference, ("a", "test"), read, json!({"url": "x"}));
        holds_every_setting_and_no_other(reference, ("a", "test"), read);
    }

    #[test]
    fn a_true_reference_passes() {
        check(GOOD);
    }

    #[test]
    #[should_panic(expected = "not the default")]
    fn a_wrong_default_is_caught() {
        check(&GOOD.replace("5s", "6s"));
    }

    #[test]
    #[should_panic(expected = "left: the reference")]
    fn a_missing_setting_is_caught() {
        check(&GOOD.replace("        #ca_file: /ca.pem\n", ""));
    }

    #[test]
    #[should_panic(expected = "left: the reference")]
    fn a_setting_that_is_none_is_caught() {
        check(&GOOD.replace("#names", "#name"));
    }
}
