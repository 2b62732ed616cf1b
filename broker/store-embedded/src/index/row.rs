//! What the index keeps of a dead letter: everything that its records are found by.

use bytes::Bytes;

use broker_model::FunctionName;
use broker_model::attempt::Class;

use crate::codec::{Malformed, Put, Take};
use crate::state::{AttemptAt, Extra};
use crate::table::Place;

/// A row, read.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) extra: Extra,
    /// Name and namespace, if it is a function's.
    pub(super) function: Option<(Box<str>, Box<str>)>,
}

/// Writes a row, with a checksum over it and the number it stands under.
pub(crate) fn write(number: u64, extra: &Extra, function: Option<&FunctionName>) -> Box<[u8]> {
    let mut put = Put::with_capacity(64);
    put.var(extra.ended_at);
    put.u8(extra.reason);
    put.text(function.map_or("", FunctionName::name));
    put.text(function.map_or("", FunctionName::namespace));
    put.var(u64::from(extra.lives_before));
    put.var(extra.life_began);
    put.var(u64::from(extra.interrupted));
    put_place(&mut put, extra.end.unwrap_or(Place::PENDING));
    put.var(extra.attempts.len() as u64);
    for attempt in &extra.attempts {
        put_place(&mut put, attempt.place);
        put.u8(attempt.nth);
        put.u8(attempt.class);
    }
    let dropped = extra.dropped.as_deref();
    let counted = || dropped.into_iter().flatten().enumerate().filter(|(_, count)| **count > 0);
    put.var(counted().count() as u64);
    for (class, count) in counted() {
        put.u8(class as u8);
        put.var(u64::from(*count));
    }
    let sum = checksum(number, &put.0);
    put.u32(sum);
    put.0.into()
}

/// Reads a row back. [`Malformed`] when it is not what was written under this number.
pub(super) fn read(number: u64, row: &[u8]) -> Result<Row, Malformed> {
    let (said, sum) = row.split_last_chunk().ok_or(Malformed)?;
    if checksum(number, said) != u32::from_le_bytes(*sum) {
        return Err(Malformed);
    }
    let mut take = Take::new(Bytes::copy_from_slice(said));
    let take = &mut take;
    let (ended_at, reason, name, namespace) = (take.var()?, take.u8()?, take.text()?, take.text()?);
    let (lives_before, life_began, interrupted) = (take.small()?, take.var()?, take.small()?);
    let end = take_place(take)?;
    let count = take.count()?;
    let attempts = (0..count)
        .map(|_| Ok(AttemptAt { place: take_place(take)?, nth: take.u8()?, class: take.u8()? }))
        .collect::<Result<_, Malformed>>()?;
    let mut dropped = None;
    for _ in 0..take.count()? {
        let class = usize::from(take.u8()?);
        let counts: &mut Box<[u32; Class::ALL.len()]> = dropped.get_or_insert_default();
        *counts.get_mut(class).ok_or(Malformed)? = take.small()?;
    }
    let extra = Extra {
        lives_before,
        life_began,
        interrupted,
        attempts,
        dropped,
        ended_at,
        end: Some(end),
        reason,
        ..Extra::default()
    };
    Ok(Row { extra, function: (!name.is_empty()).then_some((name, namespace)) })
}

fn checksum(number: u64, row: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&number.to_le_bytes()), row)
}

fn put_place(put: &mut Put, place: Place) {
    put.var(u64::from(place.segment));
    put.var(u64::from(place.offset));
}

fn take_place(take: &mut Take) -> Result<Place, Malformed> {
    Ok(Place { segment: take.small()?, offset: take.small()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_read_as_it_was_written_and_in_no_other_way() {
        let attempts = (0..20).map(|nth| AttemptAt {
            place: Place { segment: 7, offset: 70_000 + u32::from(nth) },
            nth,
            class: 1,
        });
        let mut dropped = [0; Class::ALL.len()];
        dropped[2] = 9;
        let extra = Extra {
            lives_before: 3,
            life_began: 1 << 60,
            interrupted: 2,
            attempts: attempts.collect(),
            dropped: Some(Box::new(dropped)),
            ended_at: 5,
            end: Some(Place { segment: 8, offset: 9 }),
            reason: 4,
            ..Extra::default()
        };
        let env = FunctionName::parse("env", "openfaas-fn").unwrap();
        let written = write(11, &extra, Some(&env));
        let found = read(11, &written).unwrap();

        assert_eq!(found.function, Some(("env".into(), "openfaas-fn".into())));
        let read_back = found.extra;
        assert_eq!(
            (read_back.life(), read_back.made(), read_back.end),
            (4, 29, Some(Place { segment: 8, offset: 9 }))
        );
        assert_eq!(write(11, &read_back, Some(&env)), written);
        assert_eq!(read(3, &write(3, &extra, None)).unwrap().function, None);

        assert!(read(12, &written).is_err(), "another number's");
        for cut in 0..written.len() {
            assert!(read(11, &written[..cut]).is_err(), "cut at {cut}");
            let mut flipped = written.clone();
            flipped[cut] ^= 1;
            assert!(read(11, &flipped).is_err(), "flipped at {cut}");
        }
    }
}
