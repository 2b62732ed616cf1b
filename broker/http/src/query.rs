//! Parameters of a request: those a route knows, each once; anything else is refused, never ignored.

use broker_api::{List, Problem, ProblemKind};
use broker_model::ledger::Page;

use crate::problem::Refused;

/// The parameters of one request.
#[derive(Debug)]
pub(crate) struct Parameters(Vec<(String, String)>);

impl Parameters {
    /// Reads a raw query of which only `known` names may be used.
    pub(crate) fn read(query: Option<&str>, known: &[&str]) -> Result<Self, Refused> {
        let mut pairs: Vec<(String, String)> = Vec::new();
        for (name, value) in url::form_urlencoded::parse(query.unwrap_or_default().as_bytes()) {
            if !known.contains(&&*name) {
                return Err(unknown(&name, known));
            }
            if pairs.iter().any(|(given, _)| *given == name) {
                return Err(invalid(&name, "is given twice"));
            }
            pairs.push((name.into_owned(), value.into_owned()));
        }
        Ok(Parameters(pairs))
    }

    /// Refuses every parameter.
    pub(crate) fn none(query: Option<&str>) -> Result<(), Refused> {
        Parameters::read(query, &[]).map(|_| ())
    }

    /// The value of this name, when it was given.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(given, _)| given == name).map(|(_, value)| &**value)
    }

    /// The value of this name, read; an unreadable one is refused with what `read` says.
    pub(crate) fn parsed<T, E: std::fmt::Display>(
        &self,
        name: &str,
        read: impl FnOnce(&str) -> Result<T, E>,
    ) -> Result<Option<T>, Refused> {
        self.get(name).map(read).transpose().map_err(|error| invalid(name, &error.to_string()))
    }

    /// `limit` and `cursor`.
    pub(crate) fn page(&self) -> Result<Page, Refused> {
        let most = List::<()>::MAX_LIMIT;
        let limit = self.parsed("limit", |text| match text.parse() {
            Ok(limit) if (1..=most).contains(&limit) => Ok(limit),
            _ => Err(format!("{text:?} is not a number from 1 to {most}")),
        })?;
        Ok(Page {
            limit: limit.unwrap_or(List::<()>::DEFAULT_LIMIT),
            cursor: self.get("cursor").map(str::to_owned),
        })
    }
}

/// One part of a list that is in memory, in the order it has; the cursor is the place of the next item.
pub(crate) fn part_of<T>(items: Vec<T>, page: &Page) -> Result<List<T>, Refused> {
    let from: usize = match &page.cursor {
        None => 0,
        Some(cursor) => cursor.parse().map_err(|_| invalid("cursor", "is none that a list gave"))?,
    };
    let to = from.saturating_add(page.limit);
    let next = (items.len() > to).then(|| to.to_string());
    Ok(List { items: items.into_iter().skip(from).take(page.limit).collect(), next })
}

fn unknown(name: &str, known: &[&str]) -> Refused {
    let name: String = name.chars().take(64).collect();
    let detail = if known.is_empty() {
        format!("{name:?} is not known here; this route takes no parameters")
    } else {
        format!("{name:?} is not known here; known are {}", known.join(", "))
    };
    Refused::new(ProblemKind::UnknownParameter, detail)
}

pub(crate) fn invalid(name: &str, problem: &str) -> Refused {
    Problem::new(ProblemKind::InvalidParameter, format!("{name}: {problem}")).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const KNOWN: &[&str] = &["limit", "cursor", "state"];

    #[test]
    fn an_unknown_filter_is_refused_and_the_known_ones_are_named() {
        let Refused(problem) = Parameters::read(Some("state=dead&colour=red"), KNOWN).unwrap_err();

        assert_eq!(problem.status, 400);
        assert_eq!(problem.detail, "\"colour\" is not known here; known are limit, cursor, state");
    }

    #[test]
    fn a_parameter_given_twice_is_refused() {
        let Refused(problem) = Parameters::read(Some("state=dead&state=x"), KNOWN).unwrap_err();

        assert_eq!(problem.detail, "state: is given twice");
    }

    #[test]
    fn a_page_has_bounds() {
        let page = |query| Parameters::read(Some(query), KNOWN).unwrap().page().map(|page| page.limit);

        assert_eq!(page("").unwrap(), 50);
        assert_eq!(page("limit=1000").unwrap(), 1000);
        for query in ["limit=0", "limit=1001", "limit=-1", "limit=x", "limit="] {
            assert!(page(query).is_err(), "{query}");
        }
    }

    #[test]
    fn parts_make_the_whole() {
        let part = |cursor: Option<&str>| {
            part_of(vec![1, 2, 3, 4, 5], &Page { limit: 2, cursor: cursor.map(Into::into) }).unwrap()
        };

        assert_eq!(part(None), List { items: vec![1, 2], next: Some("2".into()) });
        assert_eq!(part(Some("2")), List { items: vec![3, 4], next: Some("4".into()) });
        assert_eq!(part(Some("4")), List { items: vec![5], next: None });
        assert_eq!(part(Some("99")), List { items: vec![], next: None });
    }
}
