//! What connectors understand of OpenFaaS' own connectors: their variables, and their flags in Go's notation.

use std::collections::BTreeMap;
use std::ffi::OsString;

use broker_model::source::{Inheritance, InheritedForm};

/// Flags of every connector of OpenFaaS that mean something else than a setting of a source, and whether they take a value.
/// A licence is not needed; whoever calls a function is told by the function list.
const OTHERS: [(&str, bool); 4] =
    [("-license-file", true), ("-gateway", true), ("-async-invoke", false), ("-print-sync", false)];

/// Each kind of this build with what it understands.
pub(crate) fn kinds() -> Vec<(&'static str, Inheritance)> {
    connectors_catalog::ALL.iter().map(|connector| (connector.kind(), connector.inherits())).collect()
}

/// The arguments of a container whose image was one of OpenFaaS' connectors: all of them its flags. They mean `evoke serve`,
/// and each flag stands among the environment variables under its name with one leading `-`. `None` for anything else.
pub(crate) fn flags(
    arguments: &[OsString],
    kinds: &[(&'static str, Inheritance)],
) -> Option<BTreeMap<String, String>> {
    let takes_value = |name: &str| {
        let variables = kinds.iter().flat_map(|(_, kind)| kind.variables);
        let form = variables.into_iter().find(|variable| variable.name == name).map(|variable| variable.form);
        let of_a_kind = form.map(|form| !matches!(form, InheritedForm::Bool | InheritedForm::Group));
        let other = || OTHERS.iter().find(|(other, _)| *other == name).map(|(_, takes)| *takes);
        of_a_kind.or_else(other)
    };
    let mut flags = BTreeMap::new();
    let mut rest = arguments.iter().map(|argument| argument.to_str());
    while let Some(argument) = rest.next() {
        let name = argument?.strip_prefix('-').map(|name| name.strip_prefix('-').unwrap_or(name))?;
        let (name, value) = match name.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (name, None),
        };
        let name = format!("-{name}");
        // As Go reads them: a boolean flag never takes the next argument.
        let value = match (takes_value(&name)?, value) {
            (_, Some(value)) => value,
            (true, None) => rest.next()??,
            (false, None) => "true",
        };
        flags.insert(name, value.to_owned());
    }
    (!flags.is_empty()).then_some(flags)
}

#[cfg(test)]
mod tests {
    use broker_model::source::Inherited;

    use super::*;

    const KINDS: &[(&str, Inheritance)] = &[(
        "kafka",
        Inheritance {
            defined_by: &[&["broker_hosts"]],
            variables: &[
                Inherited { name: "broker_hosts", key: "brokers", form: InheritedForm::List },
                Inherited { name: "-tls", key: "tls", form: InheritedForm::Group },
                Inherited { name: "-ca-file", key: "tls.ca_file", form: InheritedForm::Text },
            ],
            defaults: &[],
        },
    )];

    fn read(arguments: &[&str]) -> Option<Vec<(String, String)>> {
        let arguments: Vec<OsString> = arguments.iter().map(Into::into).collect();
        Some(flags(&arguments, KINDS)?.into_iter().collect())
    }

    #[test]
    fn flags_are_read_as_go_reads_them() {
        let read = read(&["-license-file=/l", "--ca-file", "/ca", "-tls"]).unwrap();
        let read: Vec<(&str, &str)> = read.iter().map(|(name, value)| (&**name, &**value)).collect();

        assert_eq!(read, [("-ca-file", "/ca"), ("-license-file", "/l"), ("-tls", "true")]);
    }

    #[test]
    fn our_own_command_line_is_left_alone() {
        for ours in
            [&["serve"] as &[&str], &["--version"], &["--config", "x", "serve"], &["-tls", "serve"], &[]]
        {
            assert_eq!(read(ours), None, "{ours:?}");
        }
        assert_eq!(read(&["-ca-file"]), None, "its value is missing");
    }

    #[test]
    fn no_flag_of_a_connector_is_one_of_ours() {
        let of_kinds = kinds().into_iter().flat_map(|(_, kind)| kind.variables);
        for flag in of_kinds.map(|variable| variable.name).filter(|name| name.starts_with('-')) {
            assert!(!["-config", "-url", "-output", "-quiet", "-help", "-version"].contains(&flag), "{flag}");
        }
    }
}
