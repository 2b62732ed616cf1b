//! Metrics of a connector's own, under the names that OpenFaaS' dashboards know.

use std::collections::BTreeMap;

/// One metric with its labels. A connector keeps it in a `static`.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Family {
    /// Its full name, exactly as it is exposed.
    pub name: &'static str,
    /// What it says.
    pub help: &'static str,
    /// Whether it only grows.
    pub counter: bool,
    /// The names of its labels.
    pub labels: &'static [&'static str],
}

/// The most series one source may show; what comes beyond is not shown, so that an upstream's names cannot fill memory.
pub const SERIES_KEPT: usize = 1_000;

/// The values of one source's families.
#[derive(Clone, Debug, Default)]
pub struct Series {
    values: BTreeMap<(&'static Family, Vec<Box<str>>), i64>,
}

impl Series {
    pub(crate) fn change(
        &mut self,
        family: &'static Family,
        labels: &[&str],
        change: impl FnOnce(i64) -> i64,
    ) {
        debug_assert_eq!(family.labels.len(), labels.len(), "{}", family.name);
        let key = (family, labels.iter().map(|label| Box::from(*label)).collect());
        if self.values.len() < SERIES_KEPT || self.values.contains_key(&key) {
            let value = self.values.entry(key).or_default();
            *value = change(*value);
        }
    }

    pub(crate) fn forget(&mut self, family: &'static Family, with: &[(&str, &str)]) {
        self.values.retain(|(of, labels), _| {
            *of != family || {
                let mut all = family.labels.iter().zip(labels);
                !with.iter().all(|(name, value)| all.any(|(n, v)| n == name && **v == **value))
            }
        });
    }

    /// Every value with its family and the values of its labels.
    pub fn iter(&self) -> impl Iterator<Item = (&'static Family, &[Box<str>], i64)> {
        self.values.iter().map(|((family, labels), value)| (*family, labels.as_slice(), *value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    static CONSUMED: Family =
        Family { name: "consumed", help: "", counter: true, labels: &["topic", "partition"] };
    static DEPTH: Family = Family { name: "depth", help: "", counter: false, labels: &["queue"] };

    fn shown(series: &Series) -> Vec<(String, i64)> {
        series
            .iter()
            .map(|(family, labels, value)| (format!("{} {}", family.name, labels.join(",")), value))
            .collect()
    }

    #[test]
    fn values_are_kept_by_their_labels_and_forgotten_by_some_of_them() {
        let mut series = Series::default();
        for partition in ["0", "1", "0"] {
            series.change(&CONSUMED, &["orders", partition], |value| value + 2);
        }
        series.change(&DEPTH, &["q"], |_| 7);
        assert_eq!(
            shown(&series),
            [("consumed orders,0".into(), 4), ("consumed orders,1".into(), 2), ("depth q".into(), 7)]
        );

        series.forget(&CONSUMED, &[("partition", "0")]);
        assert_eq!(shown(&series).len(), 2);
        series.forget(&CONSUMED, &[]);
        assert_eq!(shown(&series), [("depth q".into(), 7)]);
    }

    #[test]
    fn no_upstream_fills_memory_with_its_names() {
        let mut series = Series::default();
        for n in 0..SERIES_KEPT + 10 {
            series.change(&DEPTH, &[&n.to_string()], |_| 1);
        }
        series.change(&DEPTH, &["0"], |_| 5);

        assert_eq!(series.iter().count(), SERIES_KEPT);
        assert!(shown(&series).contains(&("depth 0".into(), 5)));
    }
}
