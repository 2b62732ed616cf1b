//! Header fields as they came: order kept, repeated names kept, values as bytes.

use std::fmt;

/// An ordered list of header fields. Names are lower case; values are bytes, because callers send any.
///
/// All fields stand in one piece of memory: building a list, copying it and letting it go costs one allocation, however
/// many fields there are.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Headers {
    /// Of each field the length of its name, that of its value, and both.
    fields: Vec<u8>,
    count: usize,
}

/// How many bytes a length takes.
const LENGTH: usize = size_of::<usize>();

impl Headers {
    /// No fields.
    pub const fn new() -> Self {
        Headers { fields: Vec::new(), count: 0 }
    }

    /// No fields yet, and memory for so many, whose names and values have so many bytes.
    pub fn with_capacity(fields: usize, bytes: usize) -> Self {
        Headers { fields: Vec::with_capacity(bytes + fields * 2 * LENGTH), count: 0 }
    }

    /// Adds a field behind the others, also when the name is there already.
    pub fn append(&mut self, name: &str, value: impl AsRef<[u8]>) {
        let value = value.as_ref();
        self.fields.reserve(2 * LENGTH + name.len() + value.len());
        self.fields.extend_from_slice(&name.len().to_ne_bytes());
        self.fields.extend_from_slice(&value.len().to_ne_bytes());
        let begin = self.fields.len();
        self.fields.extend_from_slice(name.as_bytes());
        self.fields[begin..].make_ascii_lowercase();
        self.fields.extend_from_slice(value);
        self.count += 1;
    }

    /// Replaces every field of this name by one.
    pub fn set(&mut self, name: &str, value: impl AsRef<[u8]>) {
        self.remove(name);
        self.append(name, value);
    }

    /// Drops every field of this name.
    pub fn remove(&mut self, name: &str) {
        if self.get(name).is_some() {
            self.retain(|known| !known.eq_ignore_ascii_case(name));
        }
    }

    /// Keeps the fields this says yes to, in their order.
    pub fn retain(&mut self, mut keep: impl FnMut(&str) -> bool) {
        let mut kept = Headers::with_capacity(0, self.fields.len());
        for (name, value) in self.iter().filter(|(name, _)| keep(name)) {
            kept.append(name, value);
        }
        *self = kept;
    }

    /// The first value of this name.
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        self.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    /// The first value of this name, when it is UTF-8.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.get(name).and_then(|value| std::str::from_utf8(value).ok())
    }

    /// All fields in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &[u8])> {
        Iter { rest: &self.fields, count: self.count }
    }

    /// How many fields there are.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// What the fields weigh against a limit: names and values.
    pub fn bytes(&self) -> usize {
        self.fields.len() - self.count * 2 * LENGTH
    }
}

struct Iter<'a> {
    rest: &'a [u8],
    count: usize,
}

impl<'a> Iterator for Iter<'a> {
    type Item = (&'a str, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let (name, rest) = self.rest.split_first_chunk()?;
        let (value, rest) = rest.split_first_chunk()?;
        let (name, rest) = rest.split_at_checked(usize::from_ne_bytes(*name))?;
        let (value, rest) = rest.split_at_checked(usize::from_ne_bytes(*value))?;
        self.rest = rest;
        self.count -= 1;
        Some((std::str::from_utf8(name).unwrap_or_default(), value))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.count, Some(self.count))
    }
}

impl ExactSizeIterator for Iter<'_> {}

impl fmt::Debug for Headers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map()
            .entries(self.iter().map(|(name, value)| (name, value.escape_ascii().to_string())))
            .finish()
    }
}

impl<N: AsRef<str>, V: AsRef<[u8]>> FromIterator<(N, V)> for Headers {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(fields: I) -> Self {
        let mut headers = Headers::new();
        for (name, value) in fields {
            headers.append(name.as_ref(), value);
        }
        headers
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repeated_fields_keep_their_order_and_names_ignore_case() {
        let mut headers = Headers::new();
        headers.append("X-Start-Time", "1");
        headers.append("other", "o");
        headers.append("x-start-time", "2");

        assert_eq!(headers.text("X-START-TIME"), Some("1"));
        assert_eq!(headers.iter().map(|(_, v)| v).collect::<Vec<_>>(), [b"1" as &[u8], b"o", b"2"]);

        headers.set("x-start-time", "3");
        assert_eq!(headers.len(), 2);

        headers.retain(|name| name != "other");
        assert_eq!(headers.iter().map(|(name, _)| name).collect::<Vec<_>>(), ["x-start-time"]);
    }

    proptest::proptest! {
        #[test]
        fn it_is_a_list_of_pairs(
            fields: Vec<(String, Vec<u8>)>,
            set in proptest::collection::vec(0usize..8, 0..4),
        ) {
            let mut headers: Headers = fields.iter().map(|(name, value)| (name, value)).collect();
            let mut pairs: Vec<(String, Vec<u8>)> =
                fields.iter().map(|(name, value)| (name.to_ascii_lowercase(), value.clone())).collect();
            for at in set {
                let Some((name, _)) = pairs.get(at).cloned() else { continue };
                headers.set(&name, b"new");
                pairs.retain(|(other, _)| *other != name);
                pairs.push((name, b"new".to_vec()));
            }

            let read: Vec<_> = headers.iter().map(|(name, value)| (name.to_owned(), value.to_vec())).collect();
            proptest::prop_assert_eq!(&read, &pairs);
            proptest::prop_assert_eq!(headers.len(), pairs.len());
            let bytes: usize = pairs.iter().map(|(name, value)| name.len() + value.len()).sum();
            proptest::prop_assert_eq!(headers.bytes(), bytes);
        }
    }
}
