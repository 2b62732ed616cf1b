//! Request targets as Go's servers take them.
//!
//! A caller of the gateway may write `?price>10` or `/é`: Go takes any byte that is no blank and no control character,
//! curl and Go's client send them as they are, and hyper, true to RFC 3986, refuses some or takes `#` for an end. So what
//! hyper would not take is percent-encoded on its way in, which is what Go makes of it when it sends the path on.
//!
//! To know where a request begins, what precedes it must be measured: this follows the framing of HTTP/1.1 (lengths and
//! chunks), and decides nothing. Whatever it does not understand it leaves alone from there on, and hyper judges it.

/// The longest beginning of a line that is looked at: the names that say how long a body is, and their values.
const LOOKED_AT: usize = 64;

/// Follows the bytes of one connection and escapes what no URI may hold in the target of each request.
#[derive(Debug)]
pub(crate) struct RequestTargets {
    at: At,
    /// The beginning of the line under way, where that matters.
    line: Vec<u8>,
    length: Option<u64>,
    chunked: bool,
    /// Where the body of the request under way ends is not known; its head is followed to its end.
    lost: bool,
}

/// What the next byte belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    /// The empty lines that may precede a request.
    Before,
    Method,
    Path,
    Query,
    Version,
    /// A line of the head.
    Field,
    /// So many bytes of a body.
    Body(u64),
    /// The line with a chunk's length.
    ChunkSize,
    /// A chunk and the line end behind it.
    Chunk(u64),
    Trailer,
    /// Something this does not follow.
    Lost,
}

impl RequestTargets {
    pub(crate) fn new() -> Self {
        RequestTargets { at: At::Before, line: Vec::new(), length: None, chunked: false, lost: false }
    }

    /// Follows what was read next; what to pass on instead, if anything in it must be escaped.
    pub(crate) fn pass(&mut self, bytes: &[u8]) -> Option<Vec<u8>> {
        let mut instead: Option<Vec<u8>> = None;
        let mut from = 0;
        while from < bytes.len() {
            let rest = &bytes[from..];
            let (taken, escape) = self.step(rest);
            if escape {
                let instead = instead.get_or_insert_with(|| bytes[..from].to_vec());
                for byte in &rest[..taken] {
                    instead.extend_from_slice(format!("%{byte:02X}").as_bytes());
                }
            } else if let Some(instead) = &mut instead {
                instead.extend_from_slice(&rest[..taken]);
            }
            from += taken;
        }
        instead
    }

    /// Whether the bytes that come next belong to a request's head.
    pub(crate) fn in_head(&self) -> bool {
        matches!(self.at, At::Method | At::Path | At::Query | At::Version | At::Field)
    }

    /// Whether it is not known where the next request begins.
    pub(crate) fn is_lost(&self) -> bool {
        self.lost || self.at == At::Lost
    }

    /// Takes at least one byte of `rest`: how many, and whether they are to be escaped.
    fn step(&mut self, rest: &[u8]) -> (usize, bool) {
        if self.at == At::Before && !matches!(rest[0], b'\r' | b'\n') {
            (self.at, self.length, self.chunked) = (At::Method, None, false);
        }
        let taken = match self.at {
            At::Lost => rest.len(),
            At::Before => 1,
            At::Method => self.method(rest),
            At::Path | At::Query => return self.target(rest),
            At::Version | At::Field | At::ChunkSize | At::Trailer => self.line(rest),
            At::Body(left) | At::Chunk(left) => {
                let taken = usize::try_from(left).unwrap_or(usize::MAX).min(rest.len());
                let left = left - taken as u64;
                self.at = match self.at {
                    At::Body(_) if left == 0 => At::Before,
                    At::Body(_) => At::Body(left),
                    _ if left == 0 => At::ChunkSize,
                    _ => At::Chunk(left),
                };
                taken
            }
        };
        (taken, false)
    }

    /// Takes the method and the blank behind it.
    fn method(&mut self, rest: &[u8]) -> usize {
        match rest.iter().position(|byte| matches!(byte, b' ' | b'\n')) {
            None => rest.len(),
            Some(end) => {
                self.at = if rest[end] == b' ' { At::Path } else { At::Lost };
                end + 1
            }
        }
    }

    /// Takes a stretch of the target that is all of one kind.
    fn target(&mut self, rest: &[u8]) -> (usize, bool) {
        let in_query = self.at == At::Query;
        let is_plain = |byte: &u8| !matches!(byte, b' ' | b'\n' | b'?') && !refused(*byte, in_query);
        let plain = rest.iter().position(|byte| !is_plain(byte)).unwrap_or(rest.len());
        if plain > 0 {
            return (plain, false);
        }
        self.at = match rest[0] {
            b' ' => At::Version,
            b'\n' => At::Lost,
            b'?' => At::Query,
            _ => self.at,
        };
        (1, refused(rest[0], in_query))
    }

    /// Takes a line, or what there is of it, and its meaning once it is whole.
    fn line(&mut self, rest: &[u8]) -> usize {
        let end = rest.iter().position(|byte| *byte == b'\n');
        let taken = end.map_or(rest.len(), |end| end + 1);
        let looked_at = taken.min(LOOKED_AT - self.line.len().min(LOOKED_AT));
        self.line.extend_from_slice(&rest[..looked_at]);
        if end.is_some() {
            let line = std::mem::take(&mut self.line);
            self.at = self.meaning(line.trim_ascii_end());
            self.line = line;
            self.line.clear();
        }
        taken
    }

    fn meaning(&mut self, line: &[u8]) -> At {
        match self.at {
            At::Version => At::Field,
            At::Field if line.is_empty() && self.lost => At::Lost,
            At::Field if line.is_empty() => match (self.chunked, self.length) {
                (false, None | Some(0)) => At::Before,
                (false, Some(length)) => At::Body(length),
                (true, None) => At::ChunkSize,
                (true, Some(_)) => At::Lost,
            },
            At::Field => {
                self.lost |= self.field(line) == At::Lost;
                At::Field
            }
            At::ChunkSize => {
                let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
                let size = std::str::from_utf8(&line[..digits]).ok();
                match size.and_then(|size| u64::from_str_radix(size, 16).ok()) {
                    Some(0) => At::Trailer,
                    // Its line end goes with it.
                    Some(size) if size < u64::MAX - 2 && line.len() < LOOKED_AT => At::Chunk(size + 2),
                    _ => At::Lost,
                }
            }
            At::Trailer if line.is_empty() => At::Before,
            at => at,
        }
    }

    fn field(&mut self, line: &[u8]) -> At {
        let Some((name, value)) = split(line) else {
            // A name that ends further on is none of those that matter.
            return if line.len() >= LOOKED_AT { At::Field } else { At::Lost };
        };
        if line[0].is_ascii_whitespace() {
            // It continues a line that was judged without it.
            return At::Lost;
        }
        let is = |known: &str| name.eq_ignore_ascii_case(known.as_bytes());
        if is("content-length") {
            let digits = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
            let length = std::str::from_utf8(value).ok().filter(|_| digits && self.length.is_none());
            self.length = length.and_then(|length| length.parse().ok());
            if self.length.is_none() || line.len() >= LOOKED_AT { At::Lost } else { At::Field }
        } else if is("transfer-encoding") {
            let first = !std::mem::replace(&mut self.chunked, true);
            if first && value.eq_ignore_ascii_case(b"chunked") { At::Field } else { At::Lost }
        } else if is("upgrade") {
            At::Lost
        } else {
            At::Field
        }
    }
}

/// Whether hyper would not take this byte in a target, or not as a part of it, where Go does.
fn refused(byte: u8, in_query: bool) -> bool {
    match byte {
        b'<' | b'>' | b'#' | 0x80.. => true,
        b'`' => !in_query,
        b'"' => in_query,
        _ => false,
    }
}

fn split(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let colon = line.iter().position(|byte| *byte == b':')?;
    Some((&line[..colon], line[colon + 1..].trim_ascii()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Passes `bytes` on in pieces of these lengths, over and over.
    fn pass(bytes: &[u8], pieces: &[usize]) -> String {
        let mut targets = RequestTargets::new();
        let (mut passed, mut rest) = (Vec::new(), bytes);
        for piece in pieces.iter().cycle() {
            let (now, later) = rest.split_at((*piece).min(rest.len()));
            passed.extend(targets.pass(now).unwrap_or_else(|| now.to_vec()));
            rest = later;
            if rest.is_empty() {
                break;
            }
        }
        String::from_utf8_lossy(&passed).into_owned()
    }

    fn target(target: &[u8]) -> String {
        let request = [b"POST ", target, b" HTTP/1.1\r\nhost: x\r\n\r\n"].concat();
        let passed = pass(&request, &[1024]);
        passed.split(' ').nth(1).unwrap().to_owned()
    }

    #[test]
    fn what_go_takes_and_hyper_does_not_is_escaped() {
        assert_eq!(target(b"/a<b>c`d#e\xc3\xa9\xff"), "/a%3Cb%3Ec%60d%23e%C3%A9%FF");
        assert_eq!(target(b"/a?x=\"<1>\"&y=#2&z=\xff"), "/a?x=%22%3C1%3E%22&y=%232&z=%FF");
        for plain in ["/a%2Fb/{c}|d\\^e\"?f=`{g}|\\^[h]?i", "*", "/", "http://x:80/a"] {
            assert_eq!(target(plain.as_bytes()), plain);
        }
    }

    #[test]
    fn nothing_is_made_where_nothing_is_escaped() {
        assert_eq!(RequestTargets::new().pass(b"GET /a?b HTTP/1.1\r\n\r\n"), None);
    }

    #[test]
    fn what_is_not_understood_is_left_alone_from_there_on() {
        let next = "GET /<b> HTTP/1.1\r\n\r\n";
        for odd in [
            "GET /\r\n\r\n",
            "GET\r\n\r\n",
            "GET /a HTTP/1.1\r\ncontent-length: 1\r\ncontent-length: 1\r\n\r\nx",
            "GET /a HTTP/1.1\r\ncontent-length: 1x\r\n\r\nx",
            "GET /a HTTP/1.1\r\ncontent-length: 99999999999999999999\r\n\r\n",
            "GET /a HTTP/1.1\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
            "GET /a HTTP/1.1\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
            "GET /a HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\nfffffffffffffffff\r\n",
            "GET /a HTTP/1.1\r\nx: 1\r\n folded: 2\r\n\r\n",
            "GET /a HTTP/1.1\r\nno field\r\n\r\n",
            "GET /a HTTP/1.1\r\nupgrade: h2c\r\n\r\n",
        ] {
            let both = format!("{odd}{next}");
            assert_eq!(pass(both.as_bytes(), &[7]), both);
        }
    }

    /// One request as it is sent, and as it is to be passed on.
    fn request() -> impl Strategy<Value = (Vec<u8>, Vec<u8>)> {
        let line = prop_oneof![
            Just(("/<a>", "/%3Ca%3E")),
            Just(("/a?b=\"#\"", "/a?b=%22%23%22")),
            Just(("/a%20b?c", "/a%20b?c")),
        ];
        // A body that looks like requests.
        let text = prop_oneof![Just("GET /<b> HTTP/1.1\r\n\r\n"), Just("<"), Just("0\r\n\r\n"), Just("")];
        let body = proptest::collection::vec(text, 0..4);
        let fields = prop_oneof![Just(""), Just("X-Odd: <#>\r\n"), Just("content-lengthy: 7\r\n")];
        (line, body, fields, 0..3u8, any::<bool>()).prop_map(|((sent, passed), body, fields, kind, crlf)| {
            let framed = match kind {
                0 => "\r\n".to_owned(),
                1 => format!("Content-Length: {}\r\n\r\n{}", body.concat().len(), body.concat()),
                _ => {
                    let chunks = body.iter().filter(|chunk| !chunk.is_empty());
                    let chunks = chunks.map(|chunk| format!("{:X};ext=<\r\n{chunk}\r\n", chunk.len()));
                    let chunks: String = chunks.collect();
                    format!("TRANSFER-ENCODING: Chunked\r\n\r\n{chunks}0\r\nTrailer: <\r\n\r\n")
                }
            };
            let before = if crlf { "\r\n" } else { "" };
            let whole = |target| {
                format!("{before}POST {target} HTTP/1.1\r\nhost: x\r\n{fields}{framed}").into_bytes()
            };
            (whole(sent), whole(passed))
        })
    }

    proptest! {
        #[test]
        fn only_targets_change_however_requests_are_framed_and_cut(
            requests in proptest::collection::vec(request(), 1..6),
            pieces in proptest::collection::vec(1..40_usize, 1..8),
        ) {
            let sent: Vec<u8> = requests.iter().flat_map(|(sent, _)| sent.clone()).collect();
            let passed: Vec<u8> = requests.iter().flat_map(|(_, passed)| passed.clone()).collect();

            prop_assert_eq!(pass(&sent, &pieces), String::from_utf8(passed).unwrap());
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300), piece in 1..50_usize) {
            pass(&bytes, &[piece]);
        }
    }
}
