//! The configured sources, as their connectors read them.

use broker_config::{Problem, Source, Sources};
use broker_model::SourceName;

/// Everything connectors find wrong with the settings of their sources, each placed where it was written.
pub(crate) fn problems(sources: &Sources) -> Vec<Problem> {
    sources.iter().flat_map(|(name, source)| of_one(name, source)).collect()
}

fn of_one(name: &SourceName, source: &Source) -> Vec<Problem> {
    let Some(connector) = connectors_catalog::find(&source.kind) else {
        return vec![source.unknown_kind(&connectors_catalog::kinds())];
    };
    match connector.build(name, source.settings.clone()) {
        Ok(_) => Vec::new(),
        Err(error) => error.problems.into_iter().map(|p| source.problem(&p.key, p.what, p.remedy)).collect(),
    }
}
