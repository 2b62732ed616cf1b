//! Header fields as they came: order kept, repeated names kept, values as bytes.

use bytes::Bytes;

/// An ordered list of header fields. Names are lower case; values are bytes, because callers send any.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Headers(Vec<(Box<str>, Bytes)>);

impl Headers {
    /// No fields.
    pub const fn new() -> Self {
        Headers(Vec::new())
    }

    /// Adds a field behind the others, also when the name is there already.
    pub fn append(&mut self, name: &str, value: impl Into<Bytes>) {
        self.0.push((name.to_ascii_lowercase().into(), value.into()));
    }

    /// Replaces every field of this name by one.
    pub fn set(&mut self, name: &str, value: impl Into<Bytes>) {
        self.remove(name);
        self.append(name, value);
    }

    /// Drops every field of this name.
    pub fn remove(&mut self, name: &str) {
        self.0.retain(|(n, _)| !n.eq_ignore_ascii_case(name));
    }

    /// Keeps the fields this says yes to, in their order.
    pub fn retain(&mut self, mut keep: impl FnMut(&str) -> bool) {
        self.0.retain(|(name, _)| keep(name));
    }

    /// The first value of this name.
    pub fn get(&self, name: &str) -> Option<&Bytes> {
        self.0.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v)
    }

    /// The first value of this name, when it is UTF-8.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.get(name).and_then(|v| std::str::from_utf8(v).ok())
    }

    /// All fields in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &Bytes)> {
        self.0.iter().map(|(n, v)| (&**n, v))
    }

    /// How many fields there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What the fields weigh against a limit: names and values.
    pub fn bytes(&self) -> usize {
        self.0.iter().map(|(n, v)| n.len() + v.len()).sum()
    }
}

impl<N: AsRef<str>, V: Into<Bytes>> FromIterator<(N, V)> for Headers {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(fields: I) -> Self {
        let fields = fields.into_iter();
        let mut headers = Headers(Vec::with_capacity(fields.size_hint().0 + 1));
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
        assert_eq!(headers.iter().map(|(_, v)| v.as_ref()).collect::<Vec<_>>(), [b"1" as &[u8], b"o", b"2"]);

        headers.set("x-start-time", "3");
        assert_eq!(headers.len(), 2);

        headers.retain(|name| name != "other");
        assert_eq!(headers.iter().map(|(name, _)| name).collect::<Vec<_>>(), ["x-start-time"]);
    }
}
