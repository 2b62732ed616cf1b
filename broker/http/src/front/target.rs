//! What the path says: a function with what follows it, or a call id.

use percent_encoding::percent_decode_str;

/// Why a path is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PathError {
    /// `.` or `..` as a name or a segment: what lies between here and the function would each read it its own way.
    #[error("the path holds the segment {0:?}, which the way to the function would resolve")]
    Dots(String),
    /// A `%` that is followed by no two hexadecimal digits; the gateway would not read it either.
    #[error("the path holds {0:?}, which is no percent-encoding")]
    Escape(String),
}

/// The function a call is for, as it is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Target<'a> {
    /// The name, not yet checked.
    pub(crate) name: &'a str,
    /// What follows it: empty, or a path with its leading slash, raw.
    pub(crate) rest: &'a str,
}

impl<'a> Target<'a> {
    /// Reads what follows `/async-function/`.
    ///
    /// # Errors
    /// [`PathError`] for segments that are relative, however they are written, and for broken percent-encodings.
    pub(crate) fn parse(path: &'a str) -> Result<Self, PathError> {
        let (name, rest) = path.split_at(path.find('/').unwrap_or(path.len()));
        // Rare enough to look for its letters first.
        if path.contains('.') || path.contains('%') {
            if let Some(broken) = broken_escape(path) {
                return Err(PathError::Escape(broken.into()));
            }
            for segment in path.split('/') {
                let bare = percent_decode_str(segment);
                if bare.clone().eq(*b".") || bare.eq(*b"..") {
                    return Err(PathError::Dots(segment.into()));
                }
            }
        }
        Ok(Target { name, rest })
    }

    /// Path and query as they are sent on.
    pub(crate) fn path_and_query(&self, query: Option<&str>) -> Box<str> {
        match query {
            Some(query) => format!("{}?{query}", self.rest).into(),
            None => self.rest.into(),
        }
    }
}

/// The first `%` with what follows it that encodes no byte.
fn broken_escape(path: &str) -> Option<&str> {
    let (at, _) = path.match_indices('%').find(|(at, _)| {
        let digits = path.as_bytes().get(at + 1..at + 3);
        !digits.is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit))
    })?;
    let end = path[at..].char_indices().nth(3).map_or(path.len(), |(end, _)| at + end);
    Some(&path[at..end])
}

/// The call id of `DELETE /async-function/{call-id}`; `None` when the path has more parts or is not text.
pub(crate) fn call_id(path: &str) -> Option<String> {
    if path.contains('/') {
        return None;
    }
    percent_decode_str(path).decode_utf8().ok().map(Into::into)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_three_shapes_of_the_route() {
        for (path, name, rest) in [
            ("env", "env", ""),
            ("env/", "env", "/"),
            ("env.dev/a%2Fb/c", "env.dev", "/a%2Fb/c"),
            ("", "", ""),
        ] {
            assert_eq!(Target::parse(path), Ok(Target { name, rest }), "{path}");
        }
    }

    #[test]
    fn a_query_stays_as_it_is_written() {
        let path_and_query = |path, query| Target::parse(path).unwrap().path_and_query(query);

        assert_eq!(&*path_and_query("env", Some("x=1&y=%3C")), "?x=1&y=%3C");
        assert_eq!(&*path_and_query("env/a", Some("")), "/a?");
        assert_eq!(&*path_and_query("env/a", None), "/a");
    }

    #[test]
    fn relative_segments_are_refused_however_they_are_written() {
        for path in ["..", ".", "env/..", "env/a/../b", "env/%2e%2E/x", "env/.%2e", "%2e"] {
            assert!(Target::parse(path).is_err(), "{path}");
        }
        for path in ["env/a..b", "env/...", "a.b.c", "env/..%2F"] {
            assert!(Target::parse(path).is_ok(), "{path}");
        }
    }

    #[test]
    fn a_percent_sign_without_two_digits_is_refused() {
        for (path, broken) in [("env/%", "%"), ("env/a%zzb", "%zz"), ("env/%2", "%2"), ("env/%2é/", "%2é")]
        {
            assert_eq!(Target::parse(path), Err(PathError::Escape(broken.into())), "{path}");
        }
        assert!(Target::parse("env/%2F%c3%A9").is_ok());
    }

    #[test]
    fn a_call_id_is_one_segment() {
        assert_eq!(call_id("abc%20d").as_deref(), Some("abc d"));
        assert_eq!(call_id("a/b"), None);
        assert_eq!(call_id("%ff"), None);
    }
}
