//! What is counted.

use connectors_sdk::Family;

/// Instants by what became of them.
pub(crate) static RUNS: Family = Family {
    name: "evoke_schedule_runs_total",
    help: "Instants of schedules, by what became of them",
    counter: true,
    labels: &["source", "outcome"],
};

/// The values of its second label.
pub(crate) mod outcome {
    /// Made into an invocation.
    pub(crate) const RAN: &str = "ran";
    /// It had run before: the clock was set back, or a restart came between a run and the note of it.
    pub(crate) const DUPLICATE: &str = "duplicate";
    /// Passed over by the policy on missed instants.
    pub(crate) const MISSED: &str = "missed";
    /// Passed over because an earlier run was still held.
    pub(crate) const OVERLAP: &str = "overlap";
    /// Asked for by an operator; the run of no instant.
    pub(crate) const BY_HAND: &str = "by-hand";
    /// Made up for by an operator.
    pub(crate) const BACKFILLED: &str = "backfilled";
}
