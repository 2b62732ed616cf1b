//! What came of it: one table for people, one file for programs.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::machine::Machine;
use crate::meter::Cpu;
use crate::plan::Plan;
use crate::stats::median;

/// Processors that others may keep busy without spoiling the figures: the kernel's own threads write to the disk too.
const QUIET: f64 = 0.3;

/// Everything measured.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) machine: Machine,
    pub(crate) plan: Plan,
    pub(crate) figures: Vec<Figure>,
}

/// One figure beside its limit: a value per round of each.
#[derive(Debug)]
pub(crate) struct Figure {
    pub(crate) what: String,
    pub(crate) unit: Unit,
    pub(crate) target: Option<Target>,
    pub(crate) evoke: Vec<f64>,
    pub(crate) cpu: Vec<Cpu>,
    pub(crate) limit: Vec<f64>,
    /// Where the limit was measured itself, not computed.
    pub(crate) limit_cpu: Vec<Cpu>,
    pub(crate) limit_is: &'static str,
    pub(crate) details: Vec<Detail>,
    /// Its row in the table of sources, where it is the rate of one.
    pub(crate) source: Option<SourceRow>,
}

/// What the table of sources says of one, beside its rate.
#[derive(Debug)]
pub(crate) struct SourceRow {
    pub(crate) kind: &'static str,
    /// How the messages got there.
    pub(crate) how: &'static str,
    /// Of Evoke, in microseconds.
    pub(crate) cpu_per_message: Vec<f64>,
    pub(crate) peak_megabytes: Vec<f64>,
}

/// Something else that was measured with a figure: what its limit is made of, what explains it.
#[derive(Debug)]
pub(crate) struct Detail {
    what: &'static str,
    unit: Unit,
    values: Vec<f64>,
    cpu: Vec<Cpu>,
}

/// What a value counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unit {
    PerSecond,
    Microseconds,
    /// Millions of bytes.
    Megabytes,
    /// Of one processor.
    Percent,
    Plain,
}

/// What a figure is to reach.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Target {
    /// Figure divided by limit.
    RatioAtLeast(f64),
    /// Figure divided by limit.
    RatioAtMost(f64),
    /// The figure itself.
    AtMost(f64),
}

impl Detail {
    pub(crate) fn new(what: &'static str, unit: Unit, values: Vec<f64>) -> Detail {
        Detail { what, unit, values, cpu: Vec::new() }
    }

    pub(crate) fn with_cpu(self, cpu: Vec<Cpu>) -> Detail {
        Detail { cpu, ..self }
    }
}

impl Figure {
    /// Whether anything of it was measured.
    pub(crate) fn is_measured(&self) -> bool {
        !self.evoke.is_empty() || !self.limit.is_empty()
    }

    /// The median of the figure divided by that of its limit: the numbers the table shows.
    fn ratio(&self) -> Option<f64> {
        Some(median(&self.evoke)? / median(&self.limit)?)
    }

    /// `None` without a target, or when it was not measured.
    fn is_met(&self) -> Option<bool> {
        match self.target? {
            Target::RatioAtLeast(least) => Some(self.ratio()? >= least),
            Target::RatioAtMost(most) => Some(self.ratio()? <= most),
            Target::AtMost(most) => Some(median(&self.evoke)? <= most),
        }
    }
}

impl Report {
    /// Writes `bench.json` and `bench.md`.
    pub(crate) fn write(&self, dir: &Path) -> Result<()> {
        let json = serde_json::to_string_pretty(&self.json()?)?;
        std::fs::write(dir.join("bench.json"), json + "\n").context("writing bench.json")?;
        std::fs::write(dir.join("bench.md"), self.markdown()).context("writing bench.md")
    }

    fn json(&self) -> Result<Value> {
        let figures: Vec<Value> = self
            .figures
            .iter()
            .map(|figure| {
                let details: Vec<Value> = figure
                    .details
                    .iter()
                    .map(|detail| {
                        json!({
                            "what": detail.what,
                            "unit": detail.unit.name(),
                            "values": spread(&detail.values),
                            "cpu": cpu_json(&detail.cpu),
                        })
                    })
                    .collect();
                json!({
                    "what": figure.what,
                    "unit": figure.unit.name(),
                    "evoke": spread(&figure.evoke),
                    "limit": spread(&figure.limit),
                    "limit_is": figure.limit_is,
                    "limit_cpu": cpu_json(&figure.limit_cpu),
                    "ratio": figure.ratio(),
                    "target": figure.target.map(|target| target.text(figure.unit)),
                    "met": figure.is_met(),
                    "cpu": cpu_json(&figure.cpu),
                    "details": details,
                    "source": figure.source.as_ref().map(SourceRow::json),
                })
            })
            .collect();
        Ok(
            json!({ "machine": serde_json::to_value(&self.machine)?, "plan": serde_json::to_value(&self.plan)?, "figures": figures }),
        )
    }

    /// What processes that take no part kept busy, in the worst of the medians.
    fn disturbance(&self) -> f64 {
        let all = self.figures.iter().flat_map(|figure| {
            let details = figure.details.iter().map(|detail| detail.cpu.as_slice());
            details.chain([figure.cpu.as_slice(), figure.limit_cpu.as_slice()])
        });
        all.filter_map(cpu_median).map(|cpu| cpu.others).fold(0.0, f64::max)
    }

    /// The tables.
    pub(crate) fn markdown(&self) -> String {
        let mut text = String::new();
        let machine = &self.machine;
        // Writing to a string does not fail.
        let _ = writeln!(
            text,
            "Measured {} on {} × {}, Linux {}, {}: {}, {} round{}, medians. Bodies of 1 KiB, all processes on the same \
             processors.\n",
            machine.measured,
            machine.processors,
            machine.model,
            machine.kernel,
            machine.filesystem,
            machine.evoke.as_deref().unwrap_or("the limits alone"),
            self.plan.rounds,
            if self.plan.rounds == 1 { "" } else { "s" },
        );
        if machine.debug_build {
            text.push_str("**A build without optimisation: these are no figures.**\n\n");
        }
        if self.plan.quick {
            text.push_str("**Short samples: it works, but these are no figures.**\n\n");
        }
        if machine.filesystem == "tmpfs" {
            text.push_str("**On a filesystem in memory: nothing here was durable.**\n\n");
        }
        let disturbed = self.disturbance();
        if disturbed > QUIET {
            let _ = writeln!(
                text,
                "**The machine was not quiet: other processes kept {disturbed:.2} of its processors busy. Measure again.**\n"
            );
        }
        let main = self.figures.iter().filter(|figure| figure.source.is_none() || figure.target.is_some());
        let rows = main.map(|figure| {
            vec![
                figure.what.clone(),
                shown(&figure.evoke, figure.unit),
                shown(&figure.limit, figure.unit),
                figure.ratio().map_or("–".into(), |ratio| format!("{ratio:.2}")),
                figure.target.map_or("–".into(), |target| target.text(figure.unit)),
                match figure.is_met() {
                    None => "–".into(),
                    Some(true) => "met".into(),
                    Some(false) => "**missed**".into(),
                },
                cpu_shown(&figure.cpu),
            ]
        });
        let head = [
            "figure",
            "Evoke",
            "limit",
            "Evoke / limit",
            "target",
            "",
            "CPU: generator, upstream, function, Evoke, others",
        ];
        table(&mut text, &head, rows);
        self.sources(&mut text);
        text.push_str(
            "\nCPU is in processors kept busy. What the limits are made of, and what else was seen:\n\n",
        );
        let rows = self.figures.iter().flat_map(|figure| {
            let limit = (!figure.limit_is.is_empty()).then(|| {
                let what = format!("the limit: {}", figure.limit_is);
                vec![
                    figure.what.clone(),
                    what,
                    shown(&figure.limit, figure.unit),
                    range(&figure.limit, figure.unit),
                    cpu_shown(&figure.limit_cpu),
                ]
            });
            let evoke = (!figure.evoke.is_empty()).then(|| {
                let cpu = cpu_shown(&figure.cpu);
                vec![
                    figure.what.clone(),
                    "Evoke".into(),
                    shown(&figure.evoke, figure.unit),
                    range(&figure.evoke, figure.unit),
                    cpu,
                ]
            });
            let details = figure.details.iter().filter(|detail| !detail.values.is_empty()).map(|detail| {
                vec![
                    figure.what.clone(),
                    detail.what.to_owned(),
                    shown(&detail.values, detail.unit),
                    range(&detail.values, detail.unit),
                    cpu_shown(&detail.cpu),
                ]
            });
            evoke.into_iter().chain(limit).chain(details).collect::<Vec<_>>()
        });
        table(
            &mut text,
            &[
                "figure",
                "part",
                "median",
                "lowest to highest",
                "CPU: generator, upstream, function, server, others",
            ],
            rows,
        );
        text
    }
}

impl Report {
    /// The table of sources, where any was measured.
    fn sources(&self, text: &mut String) {
        let rows: Vec<Vec<String>> = self
            .figures
            .iter()
            .filter_map(|figure| {
                let source = figure.source.as_ref()?;
                Some(vec![
                    source.kind.to_owned(),
                    shown(&figure.evoke, figure.unit),
                    figure.ratio().map_or("–".into(), |ratio| format!("{ratio:.2}")),
                    shown(&source.cpu_per_message, Unit::Microseconds),
                    cpu_shown(&figure.cpu),
                    shown(&source.peak_megabytes, Unit::Megabytes),
                    source.how.to_owned(),
                ])
            })
            .collect();
        if !rows.is_empty() {
            text.push_str("\nMessages of each source into durable invocations:\n\n");
            let head = [
                "source",
                "messages",
                "Evoke / limit",
                "Evoke's CPU for each",
                "CPU: generator, upstream, function, Evoke, others",
                "peak memory",
                "messages are",
            ];
            table(text, &head, rows);
        }
    }
}

impl SourceRow {
    fn json(&self) -> Value {
        json!({
            "kind": self.kind,
            "messages_are": self.how,
            "cpu_microseconds_per_message": spread(&self.cpu_per_message),
            "peak_megabytes": spread(&self.peak_megabytes),
        })
    }
}

impl Unit {
    fn name(self) -> &'static str {
        match self {
            Unit::PerSecond => "per second",
            Unit::Microseconds => "microseconds",
            Unit::Megabytes => "megabytes",
            Unit::Percent => "percent of a core",
            Unit::Plain => "",
        }
    }

    fn show(self, value: f64) -> String {
        match self {
            Unit::PerSecond => format!("{}/s", grouped(value)),
            Unit::Microseconds => format!("{} µs", grouped(value)),
            Unit::Megabytes => format!("{value:.1} MB"),
            Unit::Percent => format!("{value:.2} %"),
            Unit::Plain => format!("{value:.1}"),
        }
    }
}

impl Target {
    fn text(self, unit: Unit) -> String {
        match self {
            Target::RatioAtLeast(least) => format!("≥ {least}"),
            Target::RatioAtMost(most) => format!("≤ {most}"),
            Target::AtMost(most) => format!("≤ {}", unit.show(most)),
        }
    }
}

fn shown(values: &[f64], unit: Unit) -> String {
    median(values).map_or("–".into(), |median| unit.show(median))
}

fn range(values: &[f64], unit: Unit) -> String {
    let lowest = values.iter().copied().reduce(f64::min);
    let highest = values.iter().copied().reduce(f64::max);
    match (lowest, highest) {
        (Some(lowest), Some(highest)) => format!("{} to {}", unit.show(lowest), unit.show(highest)),
        _ => "–".into(),
    }
}

fn spread(values: &[f64]) -> Value {
    match median(values) {
        None => Value::Null,
        Some(median) => json!({ "median": median, "samples": values }),
    }
}

/// The medians of the parts.
fn cpu_median(samples: &[Cpu]) -> Option<Cpu> {
    let one = |part: fn(&Cpu) -> f64| median(&samples.iter().map(part).collect::<Vec<_>>());
    Some(Cpu {
        generator: one(|cpu| cpu.generator)?,
        upstream: one(|cpu| cpu.upstream)?,
        function: one(|cpu| cpu.function)?,
        server: one(|cpu| cpu.server)?,
        others: one(|cpu| cpu.others)?,
    })
}

fn cpu_json(samples: &[Cpu]) -> Value {
    match cpu_median(samples) {
        None => Value::Null,
        Some(cpu) => {
            json!({
                "generator": cpu.generator,
                "upstream": cpu.upstream,
                "function": cpu.function,
                "server": cpu.server,
                "others": cpu.others,
            })
        }
    }
}

fn cpu_shown(samples: &[Cpu]) -> String {
    match cpu_median(samples) {
        None => "–".into(),
        Some(cpu) => format!(
            "{:.2}, {:.2}, {:.2}, {:.2}, {:.2}",
            cpu.generator, cpu.upstream, cpu.function, cpu.server, cpu.others
        ),
    }
}

/// A whole number with its thousands apart.
fn grouped(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A Markdown table whose columns line up on a terminal as well.
fn table(text: &mut String, head: &[&str], rows: impl IntoIterator<Item = Vec<String>>) {
    let rows: Vec<Vec<String>> = rows.into_iter().collect();
    let widths: Vec<usize> = head
        .iter()
        .enumerate()
        .map(|(column, name)| {
            let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
            cells.chain([name.chars().count(), 3]).max().unwrap_or(3)
        })
        .collect();
    let mut line = |cells: &mut dyn Iterator<Item = &str>| {
        for (cell, &width) in cells.zip(&widths) {
            // Writing to a string does not fail.
            let _ = write!(text, "| {cell:<width$} ");
        }
        text.push_str("|\n");
    };
    line(&mut head.iter().copied());
    let rules: Vec<String> = widths.iter().map(|&width| "-".repeat(width)).collect();
    line(&mut rules.iter().map(String::as_str));
    for row in &rows {
        line(&mut row.iter().map(String::as_str));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figure(target: Target, evoke: &[f64], limit: &[f64]) -> Figure {
        Figure {
            what: "accepting".into(),
            unit: Unit::PerSecond,
            target: Some(target),
            evoke: evoke.to_vec(),
            cpu: vec![Cpu { generator: 0.5, upstream: 0.3, function: 0.0, server: 1.25, others: 0.1 }],
            limit: limit.to_vec(),
            limit_is: "a limit",
            limit_cpu: Vec::new(),
            details: vec![Detail::new("a part", Unit::Plain, vec![3.0, 1.0])],
            source: None,
        }
    }

    fn report(figures: Vec<Figure>) -> Report {
        let machine = Machine {
            measured: "2026-01-01T00:00:00Z".into(),
            evoke: Some("evoke 0.1.0".into()),
            debug_build: false,
            processors: 2,
            model: "processor".into(),
            kernel: "6".into(),
            filesystem: "ext4".into(),
        };
        Report { machine, plan: Plan::full(), figures }
    }

    #[test]
    fn a_target_is_met_at_its_bound_and_missed_beyond_it() {
        let met = |target, evoke, limit| figure(target, &[evoke], &[limit]).is_met();

        assert_eq!(met(Target::RatioAtLeast(0.6), 60.0, 100.0), Some(true));
        assert_eq!(met(Target::RatioAtLeast(0.6), 59.9, 100.0), Some(false));
        assert_eq!(met(Target::RatioAtMost(6.0), 600.0, 100.0), Some(true));
        assert_eq!(met(Target::RatioAtMost(6.0), 601.0, 100.0), Some(false));
        assert_eq!(met(Target::AtMost(30.0), 30.0, 1.0), Some(true));
        assert_eq!(met(Target::AtMost(30.0), 30.1, 1.0), Some(false));
    }

    #[test]
    fn what_was_not_measured_is_neither_met_nor_missed() {
        assert_eq!(figure(Target::RatioAtLeast(0.6), &[], &[100.0]).is_met(), None);
        assert_eq!(figure(Target::RatioAtMost(6.0), &[1.0], &[]).is_met(), None);
        assert_eq!(figure(Target::AtMost(1.0), &[], &[]).is_met(), None);
        assert!(!figure(Target::AtMost(1.0), &[], &[]).is_measured());
    }

    #[test]
    fn the_ratio_is_that_of_the_medians_in_the_table() {
        let figure = figure(Target::RatioAtLeast(0.6), &[10.0, 70.0, 900.0], &[90.0, 100.0, 5000.0]);

        assert_eq!(figure.ratio(), Some(0.7));
    }

    #[test]
    fn the_table_shows_figure_limit_target_and_verdict() {
        let text = report(vec![figure(Target::RatioAtLeast(0.6), &[1234567.0], &[4000000.0])]).markdown();

        let row = text.lines().find(|line| line.starts_with("| accepting")).unwrap();
        let cells: Vec<_> = row.split('|').map(str::trim).collect();
        let expected = [
            "",
            "accepting",
            "1,234,567/s",
            "4,000,000/s",
            "0.31",
            "≥ 0.6",
            "**missed**",
            "0.50, 0.30, 0.00, 1.25, 0.10",
            "",
        ];
        assert_eq!(cells, expected);
        assert!(text.contains("1.0 to 3.0"), "{text}");
    }

    #[test]
    fn sources_have_a_table_and_only_those_with_a_target_stand_among_the_figures() {
        let mut with_target = figure(Target::RatioAtLeast(0.4), &[50.0], &[100.0]);
        let row = |kind| SourceRow {
            kind,
            how: "kept upstream",
            cpu_per_message: vec![12.0],
            peak_megabytes: vec![30.0],
        };
        with_target.source = Some(row("kafka"));
        let mut without = figure(Target::RatioAtLeast(0.4), &[40.0], &[]);
        (without.target, without.source) = (None, Some(row("mqtt")));

        let text = report(vec![with_target, without]).markdown();

        let main = text.split("Messages of each source").next().unwrap();
        assert_eq!(main.lines().filter(|line| line.starts_with("| accepting")).count(), 1);
        let row = text.lines().find(|line| line.starts_with("| mqtt")).unwrap();
        let cells: Vec<_> = row.split('|').map(str::trim).collect();
        let cpu = "0.50, 0.30, 0.00, 1.25, 0.10";
        assert_eq!(cells, ["", "mqtt", "40/s", "–", "12 µs", cpu, "30.0 MB", "kept upstream", ""]);
        assert!(text.contains("| kafka"));
    }

    #[test]
    fn figures_of_a_busy_machine_say_so() {
        let with_others = |others: f64| {
            let mut figure = figure(Target::RatioAtLeast(0.6), &[1.0], &[1.0]);
            figure.details.push(
                Detail::new("another", Unit::Plain, vec![1.0])
                    .with_cpu(vec![Cpu { others, ..Cpu::default() }]),
            );
            report(vec![figure]).markdown()
        };

        assert!(with_others(0.9).contains("other processes kept 0.90"));
        assert!(!with_others(0.1).contains("not quiet"));
    }

    #[test]
    fn programs_are_given_every_sample() {
        let json = report(vec![figure(Target::AtMost(30.0), &[31.0, 29.0], &[])]).json().unwrap();

        let figure = &json["figures"][0];
        assert_eq!(figure["evoke"], json!({ "median": 30.0, "samples": [31.0, 29.0] }));
        assert_eq!(figure["limit"], Value::Null);
        assert_eq!(figure["met"], true);
        assert_eq!(json["machine"]["processors"], 2);
        assert_eq!(json["plan"]["dispatched"], 200_000);
    }

    #[test]
    fn thousands_are_set_apart() {
        for (value, text) in
            [(0.0, "0"), (999.4, "999"), (1000.0, "1,000"), (123456.0, "123,456"), (1e6, "1,000,000")]
        {
            assert_eq!(grouped(value), text);
        }
    }
}
