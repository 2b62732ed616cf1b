//! What a page shows of a terminal, and whether a run shows the same.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use uuid::Uuid;

/// One fenced block of a page.
#[derive(Clone, Debug)]
pub(crate) struct Block {
    /// What stands behind the opening fence, such as `yaml`.
    pub(crate) language: String,
    /// The place of its first line in the page, from 0.
    pub(crate) at: usize,
    /// What stands between the fences.
    pub(crate) lines: Vec<String>,
}

/// A command of a block, and what the page says it prints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Step {
    pub(crate) command: String,
    pub(crate) printed: Vec<String>,
}

/// A page of the repository.
pub(crate) fn page(path: &str) -> (PathBuf, String) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let path = root.join(path);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    (path, text)
}

/// The fenced blocks of a page below a heading, up to the next one of its rank; of the whole page without a heading.
pub(crate) fn blocks(text: &str, heading: Option<&str>) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut within = heading.is_none();
    let mut open: Option<Block> = None;
    for (at, line) in text.lines().enumerate() {
        match (&mut open, line.strip_prefix("```")) {
            (Some(_), Some(_)) => blocks.extend(open.take().filter(|_| within)),
            (Some(block), None) => block.lines.push(line.to_owned()),
            (None, Some(language)) => {
                open = Some(Block { language: language.to_owned(), at: at + 1, lines: Vec::new() });
            }
            (None, None) if heading.is_some() && line.starts_with("## ") => within = Some(line) == heading,
            (None, None) => {}
        }
    }
    blocks
}

impl Block {
    /// Its commands, each behind a `$`; none in a block that shows something else.
    pub(crate) fn steps(&self) -> Vec<Step> {
        let mut steps: Vec<Step> = Vec::new();
        for line in &self.lines {
            match (line.strip_prefix("$ "), steps.last_mut()) {
                (Some(command), _) => steps.push(Step { command: command.to_owned(), printed: Vec::new() }),
                (None, Some(step)) => step.printed.push(line.clone()),
                (None, None) => return Vec::new(),
            }
        }
        steps
    }
}

/// Which ids of a page stand for which of the run. An id that the page shows twice must be one in the run, too.
#[derive(Debug, Default)]
pub(crate) struct Ids(HashMap<String, String>);

impl Ids {
    /// The text with the run's ids in place of the page's, as far as they are known.
    pub(crate) fn in_run(&self, text: &str) -> String {
        self.0.iter().fold(text.to_owned(), |text, (page, run)| text.replace(page, run))
    }

    /// Whether the run printed what the page shows, but for what no two runs share; what differs otherwise.
    pub(crate) fn agree(&mut self, page: &[String], run: &[String]) -> Result<(), String> {
        if page.len() != run.len() {
            return Err(format!("{} lines on the page, {} in the run", page.len(), run.len()));
        }
        for (page, run) in page.iter().zip(run) {
            let ((shown, shown_ids), (printed, printed_ids)) = (shape(page), shape(run));
            if shown != printed {
                return Err(format!("the page has\n  {shown}\nand the run\n  {printed}"));
            }
            for (shown, printed) in shown_ids.into_iter().zip(printed_ids) {
                let known = self.0.entry(shown.clone()).or_insert_with(|| printed.clone());
                if *known != printed {
                    return Err(format!("{shown} of the page is {known} and {printed} in the run"));
                }
            }
        }
        Ok(())
    }
}

/// A line without what no two runs share, and the ids that stand in it.
///
/// Ids, moments, nanoseconds and durations become their kind, a size on disk is left out, and runs of blanks are one:
/// columns are as wide as what stands in them.
fn shape(line: &str) -> (String, Vec<String>) {
    if line.starts_with("Date: ") {
        return ("Date: <moment>".into(), Vec::new());
    }
    if line.starts_with("on disk ") {
        return ("on disk <size>".into(), Vec::new());
    }
    let (line, ids) = without_ids(line);
    let words: Vec<&str> = line.split_whitespace().collect();
    let shaped = words.iter().enumerate().map(|(at, word)| {
        let bare = word.trim_end_matches([',', ':']);
        let rest = &word[bare.len()..];
        let is_number = !bare.is_empty() && bare.bytes().all(|byte| byte.is_ascii_digit());
        if bare.parse::<jiff::Timestamp>().is_ok() {
            format!("<moment>{rest}")
        } else if is_number && bare.len() == 19 {
            format!("<nanoseconds>{rest}")
        } else if is_duration(bare)
            || (is_number && words.get(at + 1).is_some_and(|unit| unit.trim_end_matches(',') == "ms"))
        {
            format!("<duration>{rest}")
        } else {
            (*word).to_owned()
        }
    });
    (shaped.collect::<Vec<_>>().join(" "), ids)
}

fn without_ids(line: &str) -> (String, Vec<String>) {
    const LENGTH: usize = 36;
    let (mut text, mut ids, mut rest) = (String::new(), Vec::new(), line);
    while let Some(first) = rest.chars().next() {
        match rest.get(..LENGTH).filter(|id| Uuid::try_parse(id).is_ok()) {
            Some(id) => {
                ids.push(id.to_owned());
                text.push_str("<id>");
                rest = &rest[LENGTH..];
            }
            None => {
                text.push(first);
                rest = &rest[first.len_utf8()..];
            }
        }
    }
    (text, ids)
}

/// `17ms`, `1m30s`
fn is_duration(word: &str) -> bool {
    let mut rest = word;
    while !rest.is_empty() {
        let number = rest.trim_start_matches(|c: char| c.is_ascii_digit());
        let unit = number.trim_start_matches(|c: char| c.is_ascii_alphabetic());
        let named = &number[..number.len() - unit.len()];
        if number.len() == rest.len() || !["us", "ms", "s", "m", "h", "d"].contains(&named) {
            return false;
        }
        rest = unit;
    }
    !word.is_empty()
}

#[test]
fn what_no_two_runs_share_does_not_count_and_all_else_does() {
    let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
    let one = "01a204ff-d897-7000-8000-00001787c438";
    let other = "01a204ff-d96b-7000-8000-00003787c438";
    let page = lines(&format!("ID {one}  2026-11-22T20:43:30.756Z  654us\n{one}: 200 after 0 ms, 10 bytes"));
    let agree = |run: String| Ids::default().agree(&page, &lines(&run));

    assert_eq!(
        agree(format!("ID {other}  2027-01-01T00:00:00.000Z  1m17s\n{other}: 200 after 12 ms, 10 bytes")),
        Ok(())
    );
    for different in [
        format!("ID {other} 2027-01-01T00:00:00.000Z 17ms\n{one}: 200 after 0 ms, 10 bytes"),
        format!("ID {one} 2027-01-01T00:00:00.000Z 17ms\n{one}: 500 after 0 ms, 10 bytes"),
        format!("ID {one} 2027-01-01T00:00:00.000Z 17ms\n{one}: 200 after 0 ms, 11 bytes"),
        format!("ID {one} soon 17ms\n{one}: 200 after 0 ms, 10 bytes"),
        format!("ID {one} 2027-01-01T00:00:00.000Z 17ms"),
    ] {
        assert!(agree(different.clone()).is_err(), "{different}");
    }
}
