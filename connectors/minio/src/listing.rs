//! What is in a bucket: the answers of ListObjectsV2 and ListBuckets.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use quick_xml::Reader;
use quick_xml::events::Event;

/// What notifications leave as it is in a key.
const KEY: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~').remove(b' ');

/// One object that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Object {
    pub(crate) key: String,
    pub(crate) size: u64,
    pub(crate) etag: String,
    /// In milliseconds, by the store's clock.
    pub(crate) modified: u64,
}

impl Object {
    /// The event that made it, as far as its tag tells: one of several parts has their number behind a hyphen.
    pub(crate) fn event(&self) -> &'static str {
        if self.etag.contains('-') {
            "s3:ObjectCreated:CompleteMultipartUpload"
        } else {
            "s3:ObjectCreated:Put"
        }
    }
}

/// A key as notifications have it.
pub(crate) fn encoded(key: &str) -> String {
    utf8_percent_encode(key, KEY).to_string().replace(' ', "+")
}

/// One page.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Listed {
    pub(crate) objects: Vec<Object>,
    /// Where the next page begins, where there is one.
    pub(crate) next: Option<String>,
}

/// Reads a page that was asked for with `encoding-type=url`.
///
/// # Errors
/// What is wrong with it, for people.
pub(crate) fn objects(xml: &str) -> Result<Listed, String> {
    let mut listed = Listed::default();
    let mut truncated = false;
    let mut now: Option<Object> = None;
    elements(xml, |path, step| match (path, step) {
        (["ListBucketResult", "Contents"], Step::Begins) => {
            now = Some(Object { key: String::new(), size: 0, etag: String::new(), modified: 0 });
            Ok(())
        }
        (["ListBucketResult", "Contents"], Step::Ends(_)) => {
            listed.objects.extend(now.take().filter(|object| !object.key.is_empty()));
            Ok(())
        }
        (["ListBucketResult", "Contents", field], Step::Ends(text)) => {
            let Some(object) = now.as_mut() else { return Ok(()) };
            match *field {
                "Key" => object.key = key(text)?,
                "Size" => object.size = text.parse().map_err(|_| format!("a size is {text:?}"))?,
                "ETag" => object.etag = text.trim_matches('"').to_owned(),
                "LastModified" => object.modified = time(text)?,
                _ => {}
            }
            Ok(())
        }
        (["ListBucketResult", "IsTruncated"], Step::Ends(text)) => {
            truncated = text == "true";
            Ok(())
        }
        (["ListBucketResult", "NextContinuationToken"], Step::Ends(text)) => {
            listed.next = Some(text.to_owned());
            Ok(())
        }
        _ => Ok(()),
    })?;
    if truncated && listed.next.is_none() {
        return Err("a page says that there are more, and not where".to_owned());
    }
    listed.next.take_if(|_| !truncated);
    Ok(listed)
}

/// Reads the names of all buckets.
///
/// # Errors
/// What is wrong with the answer, for people.
pub(crate) fn buckets(xml: &str) -> Result<Vec<String>, String> {
    let mut names = Vec::new();
    elements(xml, |path, step| {
        if let (["ListAllMyBucketsResult", "Buckets", "Bucket", "Name"], Step::Ends(name)) = (path, step) {
            names.push(name.to_owned());
        }
        Ok(())
    })?;
    Ok(names)
}

/// What happens to an element.
enum Step<'a> {
    Begins,
    /// With its text.
    Ends(&'a str),
}

/// Walks through a document: every element by the names that lead to it.
fn elements(xml: &str, mut seen: impl FnMut(&[&str], Step<'_>) -> Result<(), String>) -> Result<(), String> {
    let wrong = |error: &dyn std::fmt::Display| format!("the listing is no XML: {error}");
    let mut reader = Reader::from_str(xml);
    let mut path: Vec<String> = Vec::new();
    let mut text = String::new();
    let mut any = false;
    loop {
        match reader.read_event().map_err(|error| wrong(&error))? {
            Event::Start(start) => {
                path.push(String::from_utf8_lossy(start.local_name().as_ref()).into_owned());
                text.clear();
                any = true;
                seen(&path.iter().map(String::as_str).collect::<Vec<_>>(), Step::Begins)?;
            }
            Event::Text(more) => text.push_str(&more.decode().map_err(|error| wrong(&error))?),
            Event::GeneralRef(entity) => {
                let name = entity.decode().map_err(|error| wrong(&error))?;
                let letter = entity.resolve_char_ref().map_err(|error| wrong(&error))?;
                match letter {
                    Some(letter) => text.push(letter),
                    None => {
                        text.push_str(quick_xml::escape::resolve_predefined_entity(&name).unwrap_or_default())
                    }
                }
            }
            Event::End(_) => {
                seen(&path.iter().map(String::as_str).collect::<Vec<_>>(), Step::Ends(&text))?;
                path.pop();
                text.clear();
            }
            Event::Eof if any && path.is_empty() => return Ok(()),
            Event::Eof => return Err(wrong(&"it ends in the middle")),
            _ => {}
        }
    }
}

/// Undoes `encoding-type=url`, which writes a blank as `+`.
fn key(text: &str) -> Result<String, String> {
    let blanks = text.replace('+', " ");
    let key = percent_decode_str(&blanks).decode_utf8().map_err(|_| format!("a key is no text: {text:?}"))?;
    Ok(key.into_owned())
}

fn time(text: &str) -> Result<u64, String> {
    let time: jiff::Timestamp = text.parse().map_err(|_| format!("a time is {text:?}"))?;
    u64::try_from(time.as_millisecond()).map_err(|_| format!("a time is {text:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = r#"<?xml version="1.0" encoding="UTF-8"?>
<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Name>photos</Name><IsTruncated>true</IsTruncated>
<NextContinuationToken>aGVsbG8=</NextContinuationToken><EncodingType>url</EncodingType>
<Contents><Key>in/a+b%2B%C3%BC.txt</Key><LastModified>2026-11-29T07:08:09.123Z</LastModified>
<ETag>&#34;5d41-2&#34;</ETag><Size>5</Size><Owner><ID>x</ID></Owner></Contents>
<Contents><Key>z</Key><LastModified>2026-11-29T07:08:10Z</LastModified><ETag>&quot;e&quot;</ETag><Size>0</Size></Contents>
</ListBucketResult>"#;

    #[test]
    fn a_page_is_read_with_its_keys_decoded() {
        let listed = objects(PAGE).unwrap();

        assert_eq!(listed.next.as_deref(), Some("aGVsbG8="));
        let [first, second] = &listed.objects[..] else { panic!("{listed:?}") };
        assert_eq!((first.key.as_str(), first.size, first.etag.as_str()), ("in/a b+ü.txt", 5, "5d41-2"));
        assert_eq!(first.modified, 1_795_936_089_123);
        assert_eq!(
            (first.event(), second.event()),
            ("s3:ObjectCreated:CompleteMultipartUpload", "s3:ObjectCreated:Put")
        );
        assert_eq!((second.etag.as_str(), encoded(&first.key).as_str()), ("e", "in%2Fa+b%2B%C3%BC.txt"));
    }

    #[test]
    fn the_last_page_has_no_next_and_a_broken_one_is_told() {
        assert_eq!(objects(&PAGE.replace("true", "false")).unwrap().next, None);
        for (broken, why) in [
            (PAGE.replace("</ListBucketResult>", ""), "middle"),
            (PAGE.replace("<Size>5", "<Size>five"), "size"),
            (PAGE.replace("2026-11-29T07:08:10Z", "yesterday"), "time"),
            (PAGE.replace("<NextContinuationToken>aGVsbG8=</NextContinuationToken>", ""), "not where"),
            (String::new(), "middle"),
        ] {
            let error = objects(&broken).unwrap_err();
            assert!(error.contains(why), "{error}");
        }
    }

    #[test]
    fn buckets_are_listed_by_name() {
        let xml = "<ListAllMyBucketsResult><Owner><ID>i</ID></Owner><Buckets><Bucket><Name>photos</Name></Bucket>\
                   <Bucket><Name>videos</Name></Bucket></Buckets></ListAllMyBucketsResult>";
        assert_eq!(buckets(xml).unwrap(), ["photos", "videos"]);
    }
}
