//! The notification stream: lines of JSON, and signs of life between them.

use bytes::{Buf, Bytes, BytesMut};

/// The longest line taken: a notification of one object is about a kilobyte.
pub(crate) const LONGEST: usize = 1024 * 1024;

/// Cuts what comes into lines.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    buffer: BytesMut,
    /// So much of it holds no line break.
    searched: usize,
    /// The rest of a line that is too long is passed over.
    passing_over: bool,
}

/// One line of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Line {
    /// A notification, most likely.
    Text(Bytes),
    /// The beginning of a line that is too long.
    TooLong(Bytes),
}

impl Lines {
    /// Takes what came.
    pub(crate) fn feed(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// Whether nothing came of a line that has not ended.
    pub(crate) fn is_empty(&self) -> bool {
        self.buffer.is_empty() && !self.passing_over
    }

    /// The next line that is more than a sign of life: blanks alone are one, as is a notification of nothing.
    pub(crate) fn next(&mut self) -> Option<Line> {
        loop {
            // Signs of life without a line break, one after another, must not gather.
            if self.searched == 0 {
                let blanks = self.buffer.iter().take_while(|byte| byte.is_ascii_whitespace()).count();
                self.buffer.advance(blanks);
            }
            let Some(at) = self.buffer[self.searched..].iter().position(|byte| *byte == b'\n') else {
                self.searched = self.buffer.len();
                if self.searched <= LONGEST {
                    return None;
                }
                let begun = self.buffer.split().freeze();
                self.searched = 0;
                if !std::mem::replace(&mut self.passing_over, true) {
                    return Some(Line::TooLong(begun.slice(..LONGEST)));
                }
                continue;
            };
            let mut line = self.buffer.split_to(self.searched + at + 1);
            self.searched = 0;
            if std::mem::take(&mut self.passing_over) {
                continue;
            }
            line.truncate(line.trim_ascii_end().len());
            let line = line.freeze();
            return Some(if line.len() > LONGEST {
                Line::TooLong(line.slice(..LONGEST))
            } else {
                Line::Text(line)
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(chunks: &[&[u8]]) -> Vec<Line> {
        let mut lines = Lines::default();
        let mut all = Vec::new();
        for chunk in chunks {
            lines.feed(chunk);
            all.extend(std::iter::from_fn(|| lines.next()));
        }
        all
    }

    fn text(line: &'static str) -> Line {
        Line::Text(Bytes::from_static(line.as_bytes()))
    }

    #[test]
    fn lines_come_whole_however_they_are_cut() {
        let whole = b"{\"Records\":[1]}\n{\"Records\":null}\r\n";
        let expected = [text("{\"Records\":[1]}"), text("{\"Records\":null}")];
        assert_eq!(lines(&[whole]), expected);
        let bytes: Vec<&[u8]> = whole.chunks(1).collect();
        assert_eq!(lines(&bytes), expected);
    }

    #[test]
    fn blanks_are_signs_of_life_and_do_not_gather() {
        let mut all = Lines::default();
        for _ in 0..10_000 {
            all.feed(b" ");
            assert_eq!(all.next(), None);
        }
        assert!(all.is_empty());
        assert_eq!(lines(&[b"  \n ", b"  {\"a\":1}\n"]), [text("{\"a\":1}")]);
    }

    #[test]
    fn a_line_without_an_end_is_cut_off_and_the_next_one_is_whole() {
        let long = vec![b'x'; LONGEST];
        let cut = lines(&[&long, &long, &long, b"x\nnext\n"]);

        assert_eq!(cut.len(), 2);
        assert!(matches!(&cut[0], Line::TooLong(begun) if begun.len() == LONGEST));
        assert_eq!(cut[1], text("next"));
    }
}
