//! The values AMQP's headers can have, as text.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use lapin::types::{AMQPValue, DecimalValue, FieldTable};
use serde_json::{Map, Value};

/// A value as that of a header field: text as it is, numbers in decimal, bytes in base64, lists and tables as JSON, no value
/// as an empty one.
pub(crate) fn text(value: &AMQPValue) -> Vec<u8> {
    match value {
        AMQPValue::LongString(text) => text.as_bytes().to_vec(),
        AMQPValue::Void => Vec::new(),
        other => match json(other) {
            Value::String(text) => text.into_bytes(),
            other => other.to_string().into_bytes(),
        },
    }
}

/// A table as JSON.
pub(crate) fn table(table: &FieldTable) -> Value {
    let entries = table.inner().iter().map(|(name, value)| (name.to_string(), json(value)));
    Value::Object(entries.collect::<Map<_, _>>())
}

fn json(value: &AMQPValue) -> Value {
    match value {
        AMQPValue::Boolean(value) => (*value).into(),
        AMQPValue::ShortShortInt(value) => (*value).into(),
        AMQPValue::ShortShortUInt(value) => (*value).into(),
        AMQPValue::ShortInt(value) => (*value).into(),
        AMQPValue::ShortUInt(value) => (*value).into(),
        AMQPValue::LongInt(value) => (*value).into(),
        AMQPValue::LongUInt(value) => (*value).into(),
        AMQPValue::LongLongInt(value) => (*value).into(),
        AMQPValue::Timestamp(seconds) => (*seconds).into(),
        // Its own shortest digits: as a double, 0.1 would be 0.10000000149011612.
        AMQPValue::Float(value) => {
            value.to_string().parse().map_or_else(|_| value.to_string().into(), number)
        }
        AMQPValue::Double(value) => number(*value),
        // Text, because JSON's numbers are not exact.
        AMQPValue::DecimalValue(value) => decimal(*value).into(),
        AMQPValue::ShortString(text) => text.as_str().into(),
        AMQPValue::LongString(text) => match std::str::from_utf8(text.as_bytes()) {
            Ok(text) => text.into(),
            Err(_) => STANDARD.encode(text.as_bytes()).into(),
        },
        AMQPValue::ByteArray(bytes) => STANDARD.encode(bytes.as_slice()).into(),
        AMQPValue::FieldArray(values) => values.as_slice().iter().map(json).collect(),
        AMQPValue::FieldTable(entries) => table(entries),
        AMQPValue::Void => Value::Null,
    }
}

/// JSON knows no infinity; those are written as text.
fn number(value: f64) -> Value {
    if value.is_finite() { value.into() } else { value.to_string().into() }
}

fn decimal(DecimalValue { scale, value }: DecimalValue) -> String {
    let scale = usize::from(scale);
    let digits = format!("{value:0>width$}", width = scale + 1);
    let (whole, rest) = digits.split_at(digits.len() - scale);
    if rest.is_empty() { whole.to_owned() } else { format!("{whole}.{rest}") }
}

#[cfg(test)]
mod tests {
    use lapin::types::{FieldArray, LongString};

    use super::*;

    fn shown(value: AMQPValue) -> String {
        String::from_utf8(text(&value)).unwrap()
    }

    #[test]
    fn each_type_has_its_text() {
        let decimal = |scale, value| AMQPValue::DecimalValue(DecimalValue { scale, value });
        let mut entries = FieldTable::default();
        entries.insert("n".into(), AMQPValue::LongInt(1));
        entries.insert("none".into(), AMQPValue::Void);
        let list: FieldArray =
            vec![AMQPValue::LongString("a".into()), AMQPValue::FieldTable(entries.clone()), decimal(1, 15)]
                .into();
        for (value, expected) in [
            (AMQPValue::Boolean(true), "true"),
            (AMQPValue::ShortShortInt(-8), "-8"),
            (AMQPValue::ShortShortUInt(8), "8"),
            (AMQPValue::ShortInt(-16), "-16"),
            (AMQPValue::ShortUInt(16), "16"),
            (AMQPValue::LongInt(-32), "-32"),
            (AMQPValue::LongUInt(32), "32"),
            (AMQPValue::LongLongInt(i64::MIN), "-9223372036854775808"),
            (AMQPValue::Float(0.1), "0.1"),
            (AMQPValue::Float(f32::INFINITY), "inf"),
            (AMQPValue::Double(1e-7), "1e-7"),
            (AMQPValue::Double(f64::NAN), "NaN"),
            (decimal(2, 1234), "12.34"),
            (decimal(3, 7), "0.007"),
            (decimal(0, 7), "7"),
            (AMQPValue::ShortString("short".into()), "short"),
            (AMQPValue::LongString("größer".into()), "größer"),
            (AMQPValue::Timestamp(1_795_000_000), "1795000000"),
            (AMQPValue::ByteArray(vec![0, 255].into()), "AP8="),
            (AMQPValue::Void, ""),
            (AMQPValue::FieldTable(entries), r#"{"n":1,"none":null}"#),
            (AMQPValue::FieldArray(list), r#"["a",{"n":1,"none":null},"1.5"]"#),
        ] {
            assert_eq!(shown(value.clone()), expected, "{value:?}");
        }
    }

    #[test]
    fn text_that_is_none_stays_as_it_is_and_is_base64_within_json() {
        let bytes = || AMQPValue::LongString(LongString::from(vec![0xff]));

        assert_eq!(text(&bytes()), [0xff]);
        assert_eq!(shown(AMQPValue::FieldArray(vec![bytes()].into())), r#"["/w=="]"#);
    }
}
