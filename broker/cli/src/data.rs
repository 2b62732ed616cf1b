//! `--data` and `--header`.

use std::io::Read;

use crate::failure::Failure;

/// The bytes of `--data`: text as it stands, `@FILE`, or `-` for standard input.
pub(crate) fn read(data: Option<&str>) -> Result<Vec<u8>, Failure> {
    match data {
        None => Ok(Vec::new()),
        Some("-") => {
            let mut bytes = Vec::new();
            match std::io::stdin().read_to_end(&mut bytes) {
                Ok(_) => Ok(bytes),
                Err(error) => Err(Failure::Usage(format!("cannot read standard input: {error}"))),
            }
        }
        Some(text) => match text.strip_prefix('@') {
            Some(path) => {
                std::fs::read(path).map_err(|error| Failure::Usage(format!("cannot read {path:?}: {error}")))
            }
            None => Ok(text.as_bytes().to_vec()),
        },
    }
}

/// `NAME:VALUE` fields, in order.
pub(crate) fn headers(fields: &[String]) -> Result<Vec<(String, String)>, Failure> {
    fields
        .iter()
        .map(|field| match field.split_once(':') {
            Some((name, value)) if !name.trim().is_empty() => {
                Ok((name.trim().to_owned(), value.trim().to_owned()))
            }
            _ => Err(Failure::Usage(format!("{field:?} is no header field; write NAME:VALUE"))),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_is_text_or_a_file() {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");

        assert_eq!(read(None).unwrap(), b"");
        assert_eq!(read(Some("{\"a\":1}")).unwrap(), b"{\"a\":1}");
        assert!(read(Some(&format!("@{file}"))).unwrap().starts_with(b"[package]"));
        assert!(matches!(read(Some("@/nonexistent/file")), Err(Failure::Usage(_))));
    }

    #[test]
    fn a_field_has_a_name_and_a_value() {
        let fields = ["X-A: 1".to_owned(), "x-b:http://h:1/".to_owned()];

        assert_eq!(
            headers(&fields).unwrap(),
            [("X-A".into(), "1".into()), ("x-b".into(), "http://h:1/".into())]
        );
        assert!(headers(&["novalue".into()]).is_err());
    }
}
