//! Which route a request path means.
//!
//! As the gateway's router: routes are matched on the decoded path, a path that is not clean (`//`, `.`, `..`) is
//! redirected to the clean one, and a function name is one or more of `-a-zA-Z_0-9.`.

use std::borrow::Cow;

/// What a path asks for, before method and authentication are looked at.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Target<'a> {
    /// `/function/NAME[.NS]`, with the name as written and the rest as the function sees it (`/` when there is none).
    Function { written: Cow<'a, str>, rest: Cow<'a, str> },
    /// `/system/functions`
    List,
    /// `/system/function/NAME`
    One(String),
    /// `/system/scale-function/NAME`
    Scale(String),
    /// `/system/namespaces`
    Namespaces,
    /// `/system/info`
    Info,
    /// `/healthz`
    Health,
    /// Not clean; the redirect goes to this path.
    Unclean(String),
    /// No route.
    Unknown,
}

impl Target<'_> {
    /// Reads a raw (still percent-encoded) path.
    pub(crate) fn of(raw: &str) -> Target<'_> {
        // The hot path, without allocation: a plain name and nothing that needs decoding or cleaning.
        if let Some(after) = raw.strip_prefix("/function/")
            && is_name(after)
            && !matches!(after, "." | "..")
        {
            return function(Cow::Borrowed(after), Cow::Borrowed("/"));
        }
        if !raw.starts_with('/') {
            return Target::Unknown;
        }
        let path = decode(raw);
        let clean = clean(&path);
        if clean != path {
            return Target::Unclean(encode(&clean));
        }
        match path.as_ref() {
            "/system/functions" => return Target::List,
            "/system/namespaces" => return Target::Namespaces,
            "/system/info" => return Target::Info,
            "/healthz" => return Target::Health,
            _ => {}
        }
        if let Some(after) = path.strip_prefix("/function/") {
            let (name, decoded_rest) = split_name(after);
            if !is_name(name) {
                return Target::Unknown;
            }
            // The function sees the rest as it was sent, unless an encoded slash moved the border.
            let rest = match raw.strip_prefix("/function/").and_then(|after| after.strip_prefix(name)) {
                Some("") => Cow::Borrowed("/"),
                Some(raw_rest) if raw_rest.starts_with('/') => Cow::Borrowed(raw_rest),
                _ => Cow::Owned(encode(decoded_rest)),
            };
            return function(Cow::Owned(name.to_owned()), rest);
        }
        if let Some(name) = path.strip_prefix("/system/function/").filter(|name| is_name(name)) {
            return Target::One(name.to_owned());
        }
        if let Some(name) = path.strip_prefix("/system/scale-function/").filter(|name| is_name(name)) {
            return Target::Scale(name.to_owned());
        }
        Target::Unknown
    }
}

fn function<'a>(written: Cow<'a, str>, rest: Cow<'a, str>) -> Target<'a> {
    Target::Function { written, rest }
}

fn split_name(after: &str) -> (&str, &str) {
    match after.find('/') {
        Some(slash) => (&after[..slash], &after[slash..]),
        None => (after, "/"),
    }
}

/// Whether `text` is a function name to the router.
pub(crate) fn is_name(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

/// The value of a query parameter, decoded; `None` when it is absent, the first one when it is repeated.
pub(crate) fn query_value(query: Option<&str>, key: &str) -> Option<String> {
    query?.split('&').find_map(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        (decode(name) == key).then(|| decode(&value.replace('+', " ")).into_owned())
    })
}

/// Collapses `//`, `.` and `..`, and keeps a slash at the end.
fn clean(path: &str) -> String {
    let mut kept: Vec<&str> = Vec::new();
    for segment in path.split('/') {
        match segment {
            "" | "." => {}
            ".." => {
                kept.pop();
            }
            other => kept.push(other),
        }
    }
    let mut cleaned = String::with_capacity(path.len());
    for segment in &kept {
        cleaned.push('/');
        cleaned.push_str(segment);
    }
    if kept.is_empty() || path.ends_with('/') {
        cleaned.push('/');
    }
    cleaned
}

/// Percent-decodes; an escape that is not one stays as it is, and what is not UTF-8 becomes replacement characters.
fn decode(raw: &str) -> Cow<'_, str> {
    if !raw.contains('%') {
        return Cow::Borrowed(raw);
    }
    let bytes = raw.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let escape = (bytes[at] == b'%').then(|| raw.get(at + 1..at + 3)).flatten();
        match escape.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) => {
                decoded.push(byte);
                at += 3;
            }
            None => {
                decoded.push(bytes[at]);
                at += 1;
            }
        }
    }
    Cow::Owned(String::from_utf8_lossy(&decoded).into_owned())
}

fn encode(path: &str) -> String {
    let mut encoded = String::with_capacity(path.len());
    for byte in path.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~/$&+,:;=@!*'()".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call<'a>(written: &'a str, rest: &'a str) -> Target<'a> {
        Target::Function { written: written.into(), rest: rest.into() }
    }

    #[test]
    fn a_function_path_is_a_name_and_a_rest_as_it_was_sent() {
        assert_eq!(Target::of("/function/env"), call("env", "/"));
        assert_eq!(Target::of("/function/env/"), call("env", "/"));
        assert_eq!(Target::of("/function/env.dev/a/b%20c"), call("env.dev", "/a/b%20c"));
    }

    #[test]
    fn routes_match_the_decoded_path() {
        assert_eq!(Target::of("/function/%65nv"), call("env", "/"));
        assert_eq!(Target::of("/function/env%2Fa%20b"), call("env", "/a%20b"));
        assert_eq!(Target::of("/system/%66unctions"), Target::List);
    }

    #[test]
    fn an_unclean_path_is_redirected_to_the_clean_one() {
        assert_eq!(Target::of("//function/env"), Target::Unclean("/function/env".into()));
        assert_eq!(Target::of("/function/.."), Target::Unclean("/".into()));
        assert_eq!(Target::of("/function/env/../other/"), Target::Unclean("/function/other/".into()));
        assert_eq!(Target::of("/function/%2E%2E/system/info"), Target::Unclean("/system/info".into()));
        assert_eq!(Target::of("/function/env/a b//c"), Target::Unclean("/function/env/a%20b/c".into()));
    }

    #[test]
    fn a_name_outside_the_pattern_has_no_route() {
        for path in
            ["/function/", "/function/a$b", "/function/%ff", "/function", "/async-function/env", "*", "/"]
        {
            assert_eq!(Target::of(path), Target::Unknown, "{path}");
        }
    }

    #[test]
    fn query_values_are_decoded() {
        assert_eq!(query_value(Some("a=1&namespace=dev%2D1&namespace=x"), "namespace"), Some("dev-1".into()));
        assert_eq!(query_value(Some("namespace"), "namespace"), Some(String::new()));
        assert_eq!(query_value(Some("names=1"), "namespace"), None);
        assert_eq!(query_value(None, "namespace"), None);
    }
}
