//! Where results and remarks go.

use std::io::{self, Write};

use comfy_table::presets::NOTHING;
use comfy_table::{ContentArrangement, Table};

use crate::command::{Global, Output};
use crate::failure::Failure;

/// Results on one side, remarks on the other, so that results can be piped.
pub struct Screen<'a> {
    results: Box<dyn Write + Send + 'a>,
    remarks: Box<dyn Write + Send + 'a>,
    output: Output,
    quiet: bool,
}

impl<'a> Screen<'a> {
    /// A screen that writes results and remarks to these.
    pub fn new(global: &Global, results: impl Write + Send + 'a, remarks: impl Write + Send + 'a) -> Self {
        Screen {
            results: Box::new(results),
            remarks: Box::new(remarks),
            output: global.output,
            quiet: global.quiet,
        }
    }

    /// Standard output and standard error.
    pub fn of_process(global: &Global) -> Self {
        Screen::new(global, io::stdout(), io::stderr())
    }

    pub(crate) fn wants_json(&self) -> bool {
        self.output == Output::Json
    }

    /// The bytes as they are.
    pub(crate) fn raw(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        Ok(self.results.write_all(bytes)?)
    }

    /// The bytes with a line's end.
    pub(crate) fn document(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.results.write_all(bytes)?;
        self.line("")
    }

    pub(crate) fn line(&mut self, text: &str) -> Result<(), Failure> {
        Ok(writeln!(self.results, "{text}")?)
    }

    pub(crate) fn flush(&mut self) -> Result<(), Failure> {
        Ok(self.results.flush()?)
    }

    /// A table with a head; nothing but a remark when it is empty.
    pub(crate) fn table(&mut self, head: &[&str], rows: Vec<Vec<String>>) -> Result<(), Failure> {
        if rows.is_empty() {
            self.remark("none");
            return Ok(());
        }
        let mut table = Table::new();
        table.load_style(NOTHING).set_content_arrangement(ContentArrangement::Disabled);
        table.set_header(head.to_vec());
        for row in rows {
            table.add_row(row.iter().map(|cell| harmless(cell)).collect::<Vec<_>>());
        }
        for column in table.column_iter_mut() {
            column.set_padding((0, 2));
        }
        self.line(&table.trim_fmt())
    }

    /// Names with values, one a line; empty values are left out.
    pub(crate) fn facts(&mut self, facts: &[(&str, String)]) -> Result<(), Failure> {
        let facts: Vec<_> = facts.iter().filter(|(_, value)| !value.is_empty()).collect();
        let width = facts.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
        for (name, value) in facts {
            self.line(&format!("{name:width$}  {}", harmless(value)))?;
        }
        Ok(())
    }

    /// A word beside the results, unless nobody wants any.
    pub(crate) fn remark(&mut self, text: &str) {
        if !self.quiet {
            // A remark nobody can read is nobody's failure.
            let _ = writeln!(self.remarks, "{}", harmless(text));
        }
    }

    /// What went wrong and what can be done about it.
    pub(crate) fn complain(&mut self, failure: &Failure) {
        if failure.exit_code() == 0 {
            return;
        }
        let _ = writeln!(self.remarks, "evoke: {}", harmless(failure.to_string().trim_end()));
        if let Some(remedy) = failure.remedy() {
            let _ = writeln!(self.remarks, "  {}", harmless(&remedy));
        }
    }
}

/// The text with control characters escaped: what callers and functions wrote must not steer a terminal.
pub(crate) fn harmless(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() { shown.extend(c.escape_default()) } else { shown.push(c) }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_escape_sequence_does_not_reach_the_terminal() {
        assert_eq!(harmless("a\u{1b}[2Jb\nü"), "a\\u{1b}[2Jb\\nü");
    }
}
