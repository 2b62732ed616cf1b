//! The configured sources, as their connectors read them.

use broker_config::{Problem, Source, Sources};
use broker_model::SourceName;
use connectors_sdk::Connector;

/// The connector of this kind, if it is built in.
pub(crate) fn connector(kind: &str) -> Option<&'static dyn Connector> {
    connectors_catalog::ALL.iter().copied().find(|connector| connector.kind() == kind)
}

/// Everything connectors find wrong with the settings of their sources, each placed where it was written.
pub(crate) fn problems(sources: &Sources) -> Vec<Problem> {
    sources.iter().flat_map(|(name, source)| of_one(name, source)).collect()
}

fn of_one(name: &SourceName, source: &Source) -> Vec<Problem> {
    let Some(connector) = connector(&source.kind) else {
        let known: Vec<&str> = connectors_catalog::ALL.iter().map(|connector| connector.kind()).collect();
        return vec![source.unknown_kind(&known)];
    };
    match connector.build(name, source.settings.clone()) {
        Ok(_) => Vec::new(),
        Err(error) => error.problems.into_iter().map(|p| source.problem(&p.key, p.what, p.remedy)).collect(),
    }
}
