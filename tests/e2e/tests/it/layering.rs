//! Imports point down only. The table is that of docs/ARCHITECTURE.md; a wrong edge fails here.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

/// Each crate with all it may import of ours. A crate that is not here may not exist.
const MAY_IMPORT: &[(&str, &[&str])] = &[
    ("broker-model", &[]),
    ("broker-api", &[]),
    ("broker-demo-gateway", &[]),
    ("broker-store-embedded", &["broker-model"]),
    ("broker-config", &["broker-model"]),
    ("connectors-sdk", &["broker-model"]),
    ("broker-engine", &["broker-model", "broker-config"]),
    ("connectors-runtime", &["connectors-sdk"]),
    ("connectors-cron", &["connectors-sdk"]),
    ("connectors-kafka", &["connectors-sdk"]),
    ("connectors-minio", &["connectors-sdk"]),
    ("connectors-mqtt", &["connectors-sdk"]),
    ("connectors-nats", &["connectors-sdk"]),
    ("connectors-rabbitmq", &["connectors-sdk"]),
    ("connectors-sqs", &["connectors-sdk"]),
    ("connectors-webhook", &["connectors-sdk"]),
    (
        "connectors-catalog",
        &[
            "connectors-sdk",
            "connectors-cron",
            "connectors-kafka",
            "connectors-minio",
            "connectors-mqtt",
            "connectors-nats",
            "connectors-rabbitmq",
            "connectors-sqs",
            "connectors-webhook",
        ],
    ),
    ("broker-http", &["broker-model", "broker-engine", "broker-config", "broker-api"]),
    ("broker-cli", &["broker-api"]),
    (
        "broker-server",
        &[
            "broker-model",
            "broker-api",
            "broker-config",
            "broker-engine",
            "broker-http",
            "broker-cli",
            "broker-store-embedded",
            "broker-demo-gateway",
            "connectors-runtime",
            "connectors-catalog",
            "connectors-sdk",
        ],
    ),
    ("testkit", &["broker-model", "connectors-sdk", "broker-demo-gateway"]),
    ("upstreams", &["testkit"]),
    ("e2e", &[]),
    ("bench", &["broker-demo-gateway", "testkit", "upstreams"]),
];

/// Crates that only tests may import, and one another.
const TEST_ONLY: &[&str] = &["testkit", "upstreams", "e2e", "bench"];

type Edges = BTreeMap<String, BTreeSet<(String, bool)>>;

/// Every workspace crate with its edges to others; `true` for those of its tests only.
fn edges() -> Edges {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--offline", "--format-version", "1"])
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).expect("cargo metadata is JSON");
    let packages = metadata["packages"].as_array().expect("packages");
    let ours: BTreeSet<&str> = packages.iter().filter_map(|p| p["name"].as_str()).collect();
    packages
        .iter()
        .map(|package| {
            let to = package["dependencies"].as_array().expect("dependencies").iter().filter_map(|d| {
                let name = d["name"].as_str()?;
                ours.contains(name).then(|| (name.to_owned(), d["kind"].as_str() == Some("dev")))
            });
            (package["name"].as_str().expect("name").to_owned(), to.collect())
        })
        .collect()
}

/// The edges that break the table, each as a sentence.
fn wrong_edges(edges: &Edges) -> Vec<String> {
    let allowed: BTreeMap<&str, &[&str]> = MAY_IMPORT.iter().copied().collect();
    let mut wrong = Vec::new();
    for (package, to) in edges {
        let Some(may) = allowed.get(package.as_str()) else {
            wrong.push(format!("{package} is not in the table"));
            continue;
        };
        for (target, tests_only) in to {
            if !tests_only && !may.contains(&target.as_str()) {
                wrong.push(format!("{package} may not import {target}"));
            }
            let is_test = TEST_ONLY.contains(&package.as_str());
            if !tests_only && !is_test && TEST_ONLY.contains(&target.as_str()) {
                wrong.push(format!("{package} imports {target} outside its tests"));
            }
        }
    }
    wrong
}

#[test]
fn imports_point_down_only() {
    let wrong = wrong_edges(&edges());

    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn an_import_that_points_up_is_found() {
    let upward = Edges::from([("broker-model".into(), BTreeSet::from([("broker-engine".into(), false)]))]);
    let across = Edges::from([("broker-http".into(), BTreeSet::from([("connectors-nats".into(), false)]))]);
    let unknown = Edges::from([("broker-misc".into(), BTreeSet::new())]);

    for edges in [upward, across, unknown] {
        assert_eq!(wrong_edges(&edges).len(), 1, "{edges:?}");
    }
}

#[test]
fn the_top_level_is_what_the_card_says() {
    let listed = Command::new("git")
        .args(["ls-files"])
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
        .output()
        .expect("git runs");
    let text = String::from_utf8(listed.stdout).expect("paths are UTF-8");
    let top: BTreeSet<&str> = text
        .lines()
        .filter_map(|path| path.split('/').next())
        .filter(|name| !name.starts_with('.'))
        .collect();

    let allowed = [
        "Cargo.lock",
        "Cargo.toml",
        "LICENSE",
        "Makefile",
        "README.md",
        "broker",
        "config",
        "connectors",
        "deploy",
        "docs",
        "tests",
    ];
    assert!(top.iter().all(|name| allowed.contains(name)), "{top:?}");
}
