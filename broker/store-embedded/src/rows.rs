//! What a record says, as far as memory keeps it: rows of one shape, whatever record they come from.
//!
//! Recovery books rows and nothing else. A record that is read from its segment is taken apart into rows first; a
//! summary is the rows of a segment, written down. Both therefore lead to the same state.

use std::borrow::Cow;
use std::time::Duration;

use broker_model::attempt::Class;
use broker_model::{Acceptance, Draft, Lane, Timestamp};

use crate::record::{self, Accepted, BodyFile, BodyPlace, How, KeyRow, Record, Settled, Standing, nanos};
use crate::state::call_hash;

/// One thing that happened.
#[derive(Debug)]
pub(crate) enum Row<'a> {
    /// An invocation was accepted. Several of one record follow each other in the order of its parts.
    New(New<'a>),
    /// What lived of an invocation was copied here.
    Moved(New<'a>, Life),
    /// A dedup key stands on this record.
    Key(KeyRow),
    Started(u64),
    Settled {
        number: u64,
        at: u64,
        said: Said,
    },
    Cancelled {
        number: u64,
        at: u64,
    },
    Redriven {
        number: u64,
        life: u32,
        at: u64,
    },
    Removed {
        number: u64,
    },
    /// What an acceptance says beside its invocations: a position, a fire. Of the acceptance nothing else is there.
    Beside(Cow<'a, Acceptance>),
    /// The record says nothing.
    Nothing,
    /// A record that is small and rare enough to stand for itself.
    Whole(Record),
}

/// An invocation as its record has it, without what only a delivery needs.
#[derive(Debug, Clone, Copy)]
pub(crate) struct New<'a> {
    pub(crate) number: u64,
    /// Nanoseconds on the wall clock.
    pub(crate) at: u64,
    pub(crate) lane: &'a Lane,
    /// Nanoseconds on the wall clock; 0 for none.
    pub(crate) due: u64,
    pub(crate) call: u32,
    /// Its share of the record, in bytes.
    pub(crate) share: u32,
    /// The index of its origin.
    pub(crate) origin: u8,
    /// The index of the reason it was given up for with its acceptance.
    pub(crate) end: Option<u8>,
    pub(crate) body: Option<BodyFile>,
}

/// What a moved record says besides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Life {
    pub(crate) life: u32,
    pub(crate) life_began: u64,
    pub(crate) interrupted: u32,
    pub(crate) started: bool,
    pub(crate) stands: Stands,
    /// The classes of the attempts that are kept whole, in their order.
    pub(crate) kept: Vec<u8>,
    /// The classes of those that are only counted.
    pub(crate) counted: Vec<(u8, u32)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stands {
    Waiting { until: Option<u64> },
    Dead { reason: u8, died_at: u64 },
}

/// What a settlement says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Said {
    /// The class of its attempt, when it has one.
    pub(crate) attempt: Option<u8>,
    pub(crate) then: Then,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Then {
    Completed,
    Retry(Duration),
    Released(Duration),
    /// For the reason of this index.
    Dead(u8),
}

impl Said {
    pub(crate) fn of(how: &How) -> Said {
        let (attempt, then) = match how {
            How::Completed(attempt) => (Some(attempt), Then::Completed),
            How::Retry { attempt, wait } => (Some(attempt), Then::Retry(*wait)),
            How::Released { wait } => (None, Then::Released(*wait)),
            How::Dead { attempt, reason, .. } => {
                (attempt.as_ref(), Then::Dead(record::reason_index(*reason) as u8))
            }
        };
        Said { attempt: attempt.map(|attempt| record::class_number(attempt.outcome.class())), then }
    }
}

/// Takes a record apart. `size` is how much it takes in its segment.
pub(crate) fn each(record: Record, size: u32, mut row: impl FnMut(Row<'_>)) {
    match record {
        Record::Accepted(accepted) => {
            let share = size / (accepted.acceptance.drafts.len().max(1) as u32);
            accepted_rows(&accepted, share, &mut row);
        }
        Record::Started(numbers) => numbers.into_iter().for_each(|number| row(Row::Started(number))),
        Record::Settled(Settled { number, at, how, then }) => {
            row(Row::Settled { number, at, said: Said::of(&how) });
            let drafts: usize = then.iter().map(|new| new.acceptance.drafts.len()).sum();
            let share = size / (drafts.max(1) as u32);
            then.iter().for_each(|accepted| accepted_rows(accepted, share, &mut row));
        }
        Record::Cancelled { number, at } => row(Row::Cancelled { number, at }),
        Record::Redriven { number, life, at } => row(Row::Redriven { number, life, at }),
        Record::Removed { number } => row(Row::Removed { number }),
        Record::Moved(moved) => {
            let share = size / (moved.parts.len().max(1) as u32);
            let (origin, body) =
                (moved.acceptance.origin.index() as u8, BodyPlace::file_of(&moved.acceptance.body));
            for (part, draft) in moved.parts.into_iter().zip(&moved.acceptance.drafts) {
                let stands = match part.standing {
                    Standing::Waiting { until } => Stands::Waiting { until },
                    Standing::Dead { reason, died_at, .. } => {
                        Stands::Dead { reason: record::reason_index(reason) as u8, died_at }
                    }
                };
                let class = |class: Class| record::class_number(class);
                let life = Life {
                    life: part.life,
                    life_began: part.life_began,
                    interrupted: part.interrupted,
                    started: part.started,
                    stands,
                    kept: part.history.kept().map(|attempt| class(attempt.outcome.class())).collect(),
                    counted: part.history.counted().map(|(of, count)| (class(of), count)).collect(),
                };
                row(Row::Moved(new(part.number, moved.at, draft, share, origin, None, body), life));
            }
        }
        Record::Keys(keys) => keys.into_iter().for_each(|key| row(Row::Key(key))),
        Record::Missing { from, to, letter } => {
            let share = size / (letter.acceptance.drafts.len().max(1) as u32);
            accepted_rows(&letter, share, &mut row);
            row(Row::Whole(Record::Missing { from, to, letter }));
        }
        small => row(Row::Whole(small)),
    }
}

fn accepted_rows(accepted: &Accepted, share: u32, row: &mut impl FnMut(Row<'_>)) {
    let Accepted { first, at, acceptance, end } = accepted;
    if let Some(key) = &acceptance.dedup {
        let count = acceptance.drafts.len() as u32;
        row(Row::Key(KeyRow { key: key.clone(), first: *first, count, at: *at }));
    }
    if acceptance.position.is_some() || acceptance.fire.is_some() {
        row(Row::Beside(Cow::Borrowed(acceptance)));
    }
    let end = end.as_ref().map(|(reason, _)| record::reason_index(*reason) as u8);
    let (origin, body) = (acceptance.origin.index() as u8, BodyPlace::file_of(&acceptance.body));
    for (number, draft) in (*first..).zip(&acceptance.drafts) {
        row(Row::New(new(number, *at, draft, share, origin, end, body)));
    }
}

fn new(
    number: u64,
    at: u64,
    draft: &Draft,
    share: u32,
    origin: u8,
    end: Option<u8>,
    body: Option<BodyFile>,
) -> New<'_> {
    let due = draft.due.map_or(0, Timestamp::as_nanos);
    New { number, at, lane: &draft.lane, due, call: call_hash(&draft.call_id), share, origin, end, body }
}

/// A duration as rows have it.
pub(crate) fn wait_nanos(then: Then) -> u64 {
    match then {
        Then::Retry(wait) | Then::Released(wait) => nanos(wait),
        Then::Completed | Then::Dead(_) => 0,
    }
}
