//! The crate's public face: what goes in as files, variables and flags, and what comes out as values or problems.

mod layers;
mod messages;
mod reference;
mod reload;
mod values;

use std::collections::BTreeMap;
use std::path::Path;

use broker_config::{File, Inputs, Invalid, Loaded, Override, load};
use broker_model::source::{Inheritance, Inherited, InheritedForm};

const fn variable(name: &'static str, key: &'static str, form: InheritedForm) -> Inherited {
    Inherited { name, key, form }
}

/// As connectors say it.
const INHERITED: &[(&str, Inheritance)] = &[
    (
        "kafka",
        Inheritance {
            defined_by: &[&["broker_hosts"], &["broker_host", "group"]],
            variables: &[
                variable("broker_hosts", "brokers", InheritedForm::List),
                variable("broker_host", "brokers", InheritedForm::List),
                variable("topics", "topics", InheritedForm::List),
                variable("group", "group", InheritedForm::Text),
                variable("max_bytes", "max_bytes", InheritedForm::Number),
                variable("-tls", "tls", InheritedForm::Group),
                variable("-ca-file", "tls.ca_file", InheritedForm::Text),
                variable(
                    "initial_offset",
                    "start",
                    InheritedForm::OneOf(&[("oldest", "earliest"), ("newest", "latest")]),
                ),
            ],
            defaults: &[("group", "faas-group-1")],
        },
    ),
    (
        "cron",
        Inheritance {
            defined_by: &[&["rebuild_timeout"]],
            variables: &[variable("TZ", "time_zone", InheritedForm::Ambient)],
            defaults: &[],
        },
    ),
    (
        "nats",
        Inheritance {
            defined_by: &[&["broker_host"]],
            variables: &[
                variable("broker_host", "url", InheritedForm::Url { scheme: "nats", port: 4222 }),
                variable("topics", "topics", InheritedForm::List),
            ],
            defaults: &[],
        },
    ),
    (
        "sqs",
        Inheritance {
            defined_by: &[&["-queue-url"]],
            variables: &[
                variable("-queue-url", "queue_urls", InheritedForm::List),
                variable("-visibility-timeout", "visibility_timeout", InheritedForm::Duration),
                variable("-fifo", "fifo", InheritedForm::Bool),
                variable("queues", "queues", InheritedForm::Json),
            ],
            defaults: &[],
        },
    ),
];

/// What a test puts in. A file is `(name, text)`.
#[derive(Default)]
struct Given<'a> {
    file: Option<(&'a str, &'a str)>,
    environment: &'a [(&'a str, &'a str)],
    flags: &'a [&'a str],
}

impl Given<'_> {
    fn load(&self) -> Result<Loaded, Invalid> {
        let environment: BTreeMap<String, String> =
            self.environment.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
        let overrides: Vec<Override> = self.flags.iter().map(|text| Override::parse("--set", text)).collect();
        load(&Inputs {
            file: self.file.map(|(name, text)| File { name: Path::new(name), text }),
            environment: Some(&environment),
            inherited: INHERITED,
            overrides: &overrides,
            also: None,
        })
    }

    fn loaded(&self) -> Loaded {
        self.load().unwrap_or_else(|invalid| panic!("{invalid}"))
    }

    fn problems(&self) -> Vec<String> {
        let invalid = self.load().expect_err("problems");
        invalid.problems().iter().map(|problem| problem.to_string().replace("\n    ", " | ")).collect()
    }
}

fn yaml(text: &str) -> Given<'_> {
    Given { file: Some(("evoke.yaml", text)), ..Given::default() }
}

fn environment<'a>(environment: &'a [(&'a str, &'a str)]) -> Given<'a> {
    Given { environment, ..Given::default() }
}

/// The value of `key` and where it came from, as `config show` has them.
fn shown(loaded: &Loaded, key: &str) -> (String, String) {
    let leaf = loaded.leaves.iter().find(|leaf| leaf.key == key).unwrap_or_else(|| panic!("no {key}"));
    (leaf.value.clone(), leaf.origin.to_string())
}

fn pair(value: &str, origin: &str) -> (String, String) {
    (value.into(), origin.into())
}

/// Compares with a file of the repository; `BLESS=1` writes it anew, for a person to read the difference.
fn assert_is_file(path: &str, actual: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(&path, actual).expect("written");
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(
        actual,
        expected,
        "{} differs; run again with BLESS=1 and read the difference",
        path.display()
    );
}
