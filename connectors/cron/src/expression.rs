//! Cron expressions, as OpenFaaS' cron connector reads them.
//!
//! Its grammar is narrower than croner's and differs in places (`7` is no weekday, `5/15` runs to the field's end, a star with a
//! step restricts its field), so every field is read here, and croner is given plain numbers.

use std::fmt;
use std::time::Duration;

use croner::Cron;
use croner::parser::{CronParser, Seconds, Year};
use jiff::SignedDuration;
use jiff::tz::TimeZone;

/// One expression of a `schedule` annotation, read.
#[derive(Debug, Clone)]
pub struct Expression {
    text: String,
    zone: Option<TimeZone>,
    rhythm: Rhythm,
}

/// When an expression fires.
#[derive(Debug, Clone)]
pub enum Rhythm {
    /// At wall-clock times.
    Wall {
        /// The five fields.
        cron: Box<Cron>,
        /// Fires in every hour, so that it follows elapsed time where the clock is set.
        hourly: bool,
    },
    /// At a fixed distance, counted from a stored instant; whole seconds, at least one.
    Every(Duration),
}

/// Why an expression cannot be used, for the person who wrote it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ExpressionError {
    /// Not five fields and no descriptor.
    #[error("has {0} fields, but needs 5: minute, hour, day of month, month, day of week")]
    Fields(usize),
    /// A descriptor that does not exist.
    #[error(
        "{0:?} is none of @yearly, @annually, @monthly, @weekly, @daily, @midnight, @hourly, @every DURATION"
    )]
    Descriptor(String),
    /// The time zone is in no database.
    #[error("{0:?} is no time zone of the IANA database")]
    Zone(String),
    /// `@every` without a usable duration.
    #[error("@every needs a duration such as 90m or 1h30m, not {0:?}")]
    Every(String),
    /// A field that cannot be read.
    #[error("{field}: {problem}")]
    Field {
        /// Which.
        field: &'static str,
        /// What is wrong with it, and the remedy.
        problem: String,
    },
    /// Days that no calendar has, as the 31st of February.
    #[error("names a date that never comes")]
    Never,
}

/// A field's name, its bounds, and the names its values may be written with.
struct Field {
    name: &'static str,
    min: u8,
    max: u8,
    names: &'static [&'static str],
    /// A remedy for a number just out of bounds.
    hint: &'static str,
}

const MONTHS: [&str; 12] =
    ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const DAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];

const FIELDS: [Field; 5] = [
    Field { name: "minute", min: 0, max: 59, names: &[], hint: "" },
    Field { name: "hour", min: 0, max: 23, names: &[], hint: "" },
    Field { name: "day of month", min: 1, max: 31, names: &[], hint: "" },
    Field { name: "month", min: 1, max: 12, names: &MONTHS, hint: "" },
    Field { name: "day of week", min: 0, max: 6, names: &DAYS, hint: "; Sunday is 0" },
];

/// Reads a whole `schedule` annotation: expressions separated by `;`. Each stands for itself, so that a wrong one stops no
/// other; empty ones are passed over.
pub fn read_annotation(annotation: &str) -> Vec<(&str, Result<Expression, ExpressionError>)> {
    annotation
        .split(';')
        .map(str::trim)
        .filter(|text| !text.is_empty())
        .map(|text| (text, Expression::read(text)))
        .collect()
}

impl Expression {
    /// Reads one expression: `[CRON_TZ=ZONE ]` and five fields or a descriptor.
    ///
    /// # Errors
    /// [`ExpressionError`], with what is wrong and where.
    pub fn read(text: &str) -> Result<Self, ExpressionError> {
        let (zone, rest) = split_zone(text)?;
        let rhythm = if rest.starts_with('@') { descriptor(rest)? } else { wall(rest)? };
        Ok(Self { text: text.to_owned(), zone, rhythm })
    }

    /// As it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// As everybody would write it: single spaces, `CRON_TZ=` for the zone. What it is told from others by.
    pub fn normal(&self) -> String {
        let text = self.text.split_ascii_whitespace().collect::<Vec<_>>().join(" ");
        match text.strip_prefix("TZ=") {
            Some(rest) => format!("CRON_TZ={rest}"),
            None => text,
        }
    }

    /// The zone it names; where it names none, the source's zone serves.
    pub fn zone(&self) -> Option<&TimeZone> {
        self.zone.as_ref()
    }

    /// When it fires.
    pub fn rhythm(&self) -> &Rhythm {
        &self.rhythm
    }
}

impl fmt::Display for Expression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

fn split_zone(text: &str) -> Result<(Option<TimeZone>, &str), ExpressionError> {
    let Some(named) = text.strip_prefix("CRON_TZ=").or_else(|| text.strip_prefix("TZ=")) else {
        return Ok((None, text));
    };
    let (name, rest) = named.split_once(' ').ok_or(ExpressionError::Fields(0))?;
    let zone = if name.is_empty() { Ok(TimeZone::UTC) } else { TimeZone::get(name) };
    let zone = zone.map_err(|_| ExpressionError::Zone(name.to_owned()))?;
    Ok((Some(zone), rest.trim_start()))
}

fn descriptor(text: &str) -> Result<Rhythm, ExpressionError> {
    if let Some(duration) = text.strip_prefix("@every ") {
        return every(duration.trim());
    }
    wall(match text {
        "@yearly" | "@annually" => "0 0 1 1 *",
        "@monthly" => "0 0 1 * *",
        "@weekly" => "0 0 * * 0",
        "@daily" | "@midnight" => "0 0 * * *",
        "@hourly" => "0 * * * *",
        other => return Err(ExpressionError::Descriptor(other.to_owned())),
    })
}

/// A Go duration. Jiff's friendly format holds that grammar and more; the characters keep what is more out.
fn every(text: &str) -> Result<Rhythm, ExpressionError> {
    let refused = || ExpressionError::Every(text.to_owned());
    if !text.chars().all(|c| c.is_ascii_digit() || ".hmsnuµμ".contains(c)) {
        return Err(refused());
    }
    let duration: SignedDuration = text.parse().map_err(|_| refused())?;
    // Fractions of a second are dropped and nothing is quicker than a second, as OpenFaaS has it.
    let seconds = u64::try_from(duration.as_secs()).map_err(|_| refused())?.max(1);
    Ok(Rhythm::Every(Duration::from_secs(seconds)))
}

fn wall(text: &str) -> Result<Rhythm, ExpressionError> {
    let fields: Vec<&str> = text.split_ascii_whitespace().collect();
    if fields.len() != FIELDS.len() {
        return Err(ExpressionError::Fields(fields.len()));
    }
    let plain =
        fields.iter().zip(&FIELDS).map(|(text, field)| field.plain(text)).collect::<Result<Vec<_>, _>>()?;
    let hourly = plain[1] == "*" || plain[1] == "0-23/1";
    let cron = CronParser::builder()
        .seconds(Seconds::Disallowed)
        .year(Year::Disallowed)
        .build()
        .parse(&plain.join(" "))
        .map_err(|_| ExpressionError::Never)?;
    let rhythm = Rhythm::Wall { cron: Box::new(cron), hourly };
    if never(&plain[2], &plain[3], &plain[4]) { Err(ExpressionError::Never) } else { Ok(rhythm) }
}

/// Whether the days of month exist in none of the months. A weekday beside them would still fire.
fn never(days: &str, months: &str, weekdays: &str) -> bool {
    if days == "*" || weekdays != "*" {
        return false;
    }
    let longest = |month: u8| match month {
        2 => 29,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    };
    let first_day = values(days, 1, 31).min().unwrap_or(1);
    values(months, 1, 12).all(|month| first_day > longest(month))
}

/// The values of a plain field.
fn values(plain: &str, min: u8, max: u8) -> impl Iterator<Item = u8> {
    let whole = format!("{min}-{max}/1");
    let plain = if plain == "*" { whole } else { plain.to_owned() };
    plain
        .split(',')
        .flat_map(|item| {
            let mut numbers = item.split(['-', '/']).map(|n| n.parse::<u8>().unwrap_or(min));
            let (low, high, step) = (numbers.next(), numbers.next(), numbers.next());
            (low.unwrap_or(min)..=high.unwrap_or(max)).step_by(usize::from(step.unwrap_or(1)))
        })
        .collect::<Vec<_>>()
        .into_iter()
}

impl Field {
    /// The field in the one form handed on: `*`, or a list of `low-high/step` in numbers.
    fn plain(&self, text: &str) -> Result<String, ExpressionError> {
        let mut items = Vec::new();
        for item in text.split(',') {
            match self.item(item)? {
                None => return Ok("*".to_owned()),
                Some(range) => items.push(range),
            }
        }
        Ok(items.join(","))
    }

    /// One item of a list; `None` where it leaves the field free.
    fn item(&self, item: &str) -> Result<Option<String>, ExpressionError> {
        let (range, step) = match item.split_once('/') {
            Some((range, step)) => (range, Some(self.step(step)?)),
            None => (item, None),
        };
        let step = step.unwrap_or(1);
        let (low, high) = if range == "*" || range == "?" {
            if step == 1 {
                return Ok(None);
            }
            (self.min, self.max)
        } else if let Some((low, high)) = range.split_once('-') {
            (self.value(low)?, self.value(high)?)
        } else {
            let low = self.value(range)?;
            // `5/15` runs from 5 to the end of the field.
            (low, if item.contains('/') { self.max } else { low })
        };
        if low > high {
            return Err(
                self.refuse(format!("{range:?} runs backwards; write two ranges, separated by a comma"))
            );
        }
        Ok(Some(format!("{low}-{high}/{step}")))
    }

    fn step(&self, text: &str) -> Result<u8, ExpressionError> {
        match text.parse::<u32>() {
            Ok(0) => Err(self.refuse("a step of 0 never moves".to_owned())),
            // A step past the field's end leaves its first value alone, however large it is.
            Ok(step) => Ok(u8::try_from(step).unwrap_or(u8::MAX).min(self.max + 1)),
            Err(_) => Err(self.refuse(format!("{text:?} is no step"))),
        }
    }

    fn value(&self, text: &str) -> Result<u8, ExpressionError> {
        let lower = text.to_ascii_lowercase();
        if let Some(at) = self.names.iter().position(|name| *name == lower) {
            return Ok(self.min + u8::try_from(at).unwrap_or(0));
        }
        let in_bounds = text.bytes().all(|b| b.is_ascii_digit())
            && text.parse::<u8>().is_ok_and(|value| (self.min..=self.max).contains(&value));
        if !in_bounds {
            let Field { min, max, hint, .. } = self;
            return Err(self.refuse(format!("{text:?} is none of {min} to {max}{hint}")));
        }
        text.parse().map_err(|_| self.refuse(format!("{text:?} is no number")))
    }

    fn refuse(&self, problem: String) -> ExpressionError {
        ExpressionError::Field { field: self.name, problem }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(text: &str) -> String {
        match Expression::read(text).expect(text).rhythm {
            Rhythm::Wall { cron, .. } => cron.pattern.to_string(),
            Rhythm::Every(every) => format!("every {every:?}"),
        }
    }

    fn refusal(text: &str) -> String {
        Expression::read(text).expect_err(text).to_string()
    }

    #[test]
    fn every_form_of_openfaas_is_read() {
        assert_eq!(plain("*/5 * * * *"), "0-59/5 * * * *");
        assert_eq!(plain("5/15 0,12 1-7 JAN-mar ?"), "5-59/15 0-0/1,12-12/1 1-7/1 1-3/1 *");
        assert_eq!(plain("0 9 * * MON-FRI"), "0-0/1 9-9/1 * * 1-5/1");
        // A star in a list leaves the field free; a star with a step restricts it.
        assert_eq!(plain("0 0 *,3 * */2"), "0-0/1 0-0/1 * * 0-6/2");
        assert_eq!(plain("@midnight"), plain("@daily"));
        assert_eq!(plain("@annually"), "0-0/1 0-0/1 1-1/1 1-1/1 *");
        assert_eq!(plain("CRON_TZ=Asia/Tokyo 0 9 * * 1-5"), "0-0/1 9-9/1 * * 1-5/1");
    }

    #[test]
    fn each_descriptor_stands_for_five_fields() {
        for (descriptor, fields) in [
            ("@yearly", "0 0 1 1 *"),
            ("@annually", "0 0 1 1 *"),
            ("@monthly", "0 0 1 * *"),
            ("@weekly", "0 0 * * 0"),
            ("@daily", "0 0 * * *"),
            ("@midnight", "0 0 * * *"),
            ("@hourly", "0 * * * *"),
        ] {
            assert_eq!(plain(descriptor), plain(fields), "{descriptor}");
            assert_eq!(plain(&format!("CRON_TZ=Asia/Tokyo {descriptor}")), plain(fields), "{descriptor}");
        }
    }

    #[test]
    fn every_takes_go_durations_of_at_least_a_second() {
        assert_eq!(plain("@every 90m"), "every 5400s");
        assert_eq!(plain("@every 1h30m10s"), "every 5410s");
        assert_eq!(plain("@every 1.5h"), "every 5400s");
        assert_eq!(plain("@every 2500ms"), "every 2s");
        assert_eq!(plain("@every 10ms"), "every 1s");
        for wrong in
            ["@every", "@every ", "@every 5", "@every -1h", "@every 1 hour", "@every 1d", "@every P1D"]
        {
            assert!(Expression::read(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_refusal_says_what_where_and_the_remedy() {
        assert_eq!(refusal("0 0 * * 7"), r#"day of week: "7" is none of 0 to 6; Sunday is 0"#);
        assert_eq!(refusal("60 * * * *"), r#"minute: "60" is none of 0 to 59"#);
        assert_eq!(refusal("0 0 L * *"), r#"day of month: "L" is none of 1 to 31"#);
        assert_eq!(refusal("0 0 15W * *"), r#"day of month: "15W" is none of 1 to 31"#);
        assert_eq!(refusal("0 0 * * 5#2"), r##"day of week: "5#2" is none of 0 to 6; Sunday is 0"##);
        assert_eq!(
            refusal("0 22-3 * * *"),
            r#"hour: "22-3" runs backwards; write two ranges, separated by a comma"#
        );
        assert_eq!(refusal("*/0 * * * *"), "minute: a step of 0 never moves");
        assert_eq!(
            refusal("0 0 12 * * *"),
            "has 6 fields, but needs 5: minute, hour, day of month, month, day of week"
        );
        assert_eq!(refusal("@reboot").split(' ').next(), Some(r#""@reboot""#));
        assert_eq!(
            refusal("TZ=Mars/Olympus 0 0 * * *"),
            r#""Mars/Olympus" is no time zone of the IANA database"#
        );
        assert_eq!(refusal("TZ=UTC"), ExpressionError::Fields(0).to_string());
        assert_eq!(refusal("0 0 30,31 2 *"), "names a date that never comes");
        for odd in
            ["", "+1 * * * *", "1--2 * * * *", "1/2/3 * * * *", ", * * * *", "*-5 * * * *", "0 0 * foo *"]
        {
            assert!(Expression::read(odd).is_err(), "{odd}");
        }
    }

    #[test]
    fn an_annotation_holds_several_and_a_wrong_one_stops_no_other() {
        let all = read_annotation("*/5 * * * *; @every 90m; ;CRON_TZ=Asia/Tokyo 0 9 * * 1-5; 0 0 * * 7");

        assert_eq!(all.len(), 4);
        assert_eq!(all.iter().filter(|(_, read)| read.is_ok()).count(), 3);
        assert_eq!(all[3].0, "0 0 * * 7");
    }
}
