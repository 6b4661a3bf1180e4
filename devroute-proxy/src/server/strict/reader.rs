//! Reads requests of HTTP/1 as far as is needed to know where each of them ends.

use std::mem;

/// The digits of the largest `Content-Length` whose number fits.
const LENGTH_DIGITS: usize = 19;
/// Those of the largest chunk size.
const SIZE_DIGITS: u32 = 16;
/// How much of a line is looked at: more than any that has to be understood.
const LINE: usize = 128;

/// Something that is refused, and how much of what was read stands before the line that it is in.
#[derive(Debug, Eq, PartialEq)]
pub(super) struct Refused {
    pub(super) is_head: bool,
    pub(super) good: usize,
}

/// Where a reader is in a stream of requests.
#[derive(Debug, Default)]
pub(super) struct Reader {
    state: State,
    head: Head,
    /// The beginning of a line whose end has not come yet, as far as it has to be understood.
    line: Vec<u8>,
    /// How much of that line has come, its CR not counted.
    length: usize,
    /// Whether the last byte was the CR of a line.
    cr: bool,
    /// Whether the client has said that the request before is its last one (RFC 9112, section 9.6).
    is_last: bool,
    /// Whether there may be a tunnel behind the request that is being read.
    is_tunnel: bool,
}

#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
enum State {
    #[default]
    Head,
    /// So many bytes that nothing is to be seen in.
    Body(u64),
    Size,
    Data(u64),
    DataEnd,
    Trailers,
    /// It may be a tunnel.
    Anything,
}

/// What the head so far says of what is behind it.
#[derive(Debug, Default)]
struct Head {
    has_begun: bool,
    is_connect: bool,
    is_upgrade: bool,
    is_h2c: bool,
    content_length: Option<u64>,
    is_chunked: bool,
    is_last: bool,
}

/// That something is not as it has to be.
struct Malformed;

impl Reader {
    /// Whether all of the client's last request has come, and nothing behind it.
    pub(super) fn is_over(&self) -> bool {
        let is_between = self.state == State::Head && !self.head.has_begun;
        self.is_last && is_between && self.length == 0 && !self.cr
    }

    /// What comes behind a request.
    fn behind(&self) -> State {
        match self.is_tunnel {
            true => State::Anything,
            false => State::Head,
        }
    }

    /// Looks at what comes next.
    pub(super) fn read(&mut self, bytes: &[u8]) -> Result<(), Refused> {
        let mut rest = bytes;
        // Where the head, or the line of a body, has begun that is being read.
        let mut good = 0;
        while !rest.is_empty() {
            match &mut self.state {
                State::Anything => return Ok(()),
                State::Body(left) | State::Data(left) => {
                    let now = usize::try_from(*left).unwrap_or(usize::MAX).min(rest.len());
                    *left -= now as u64;
                    rest = rest.get(now..).unwrap_or_default();
                    if *left == 0 {
                        self.state = match self.state {
                            State::Data(_) => State::DataEnd,
                            _ => self.behind(),
                        };
                    }
                    good = bytes.len() - rest.len();
                }
                State::Head | State::Size | State::DataEnd | State::Trailers => {
                    let line = self.line(rest).and_then(|(read, line)| {
                        match line {
                            Some(Line::Here(line)) => self.take(line, false)?,
                            Some(Line::Kept(line, is_cut)) => {
                                self.take(&line, is_cut)?;
                                self.line = line;
                                self.line.clear();
                            }
                            None => {}
                        }
                        Ok(read)
                    });
                    let Ok(read) = line else {
                        let is_head = self.state == State::Head;
                        return Err(Refused { is_head, good });
                    };
                    rest = rest.get(read..).unwrap_or_default();
                    if self.state != State::Head || !self.head.has_begun {
                        good = bytes.len() - rest.len();
                    }
                }
            }
        }
        Ok(())
    }

    /// The line that `bytes` begin with or go on with, and how much of them belongs to it.
    fn line<'a>(&mut self, bytes: &'a [u8]) -> Result<(usize, Option<Line<'a>>), Malformed> {
        let found = if self.cr {
            Some(0)
        } else {
            memchr::memchr2(b'\r', b'\n', bytes)
        };
        let text = bytes
            .get(..found.unwrap_or(bytes.len()))
            .unwrap_or_default();
        let is_bad = match self.state {
            State::Size => text.iter().any(|byte| is_control(*byte)),
            State::Head if !self.head.has_begun => text.contains(&b'#'),
            _ => false,
        };
        if is_bad {
            return Err(Malformed);
        }
        let ended = match found {
            None => false,
            Some(_) if self.cr => match bytes.first() {
                Some(b'\n') => true,
                _ => return Err(Malformed),
            },
            Some(at) => match (bytes.get(at), bytes.get(at + 1)) {
                (Some(b'\r'), Some(b'\n')) => true,
                (Some(b'\r'), None) => {
                    self.cr = true;
                    false
                }
                _ => return Err(Malformed),
            },
        };
        let read = match (ended, self.cr) {
            (false, _) => bytes.len(),
            (true, true) => 1,
            (true, false) => text.len() + 2,
        };
        if ended && !self.cr && self.length == 0 {
            return Ok((read, Some(Line::Here(text))));
        }
        let room = LINE.saturating_sub(self.line.len()).min(text.len());
        self.line
            .extend_from_slice(text.get(..room).unwrap_or_default());
        self.length += text.len();
        if !ended {
            return Ok((read, None));
        }
        self.cr = false;
        let is_cut = mem::take(&mut self.length) > self.line.len();
        Ok((read, Some(Line::Kept(mem::take(&mut self.line), is_cut))))
    }

    /// Takes a line, of which only the beginning is there where it was cut.
    fn take(&mut self, line: &[u8], is_cut: bool) -> Result<(), Malformed> {
        self.state = match self.state {
            State::Head if !line.is_empty() => {
                self.head.take(line, is_cut)?;
                State::Head
            }
            State::Head => {
                let head = mem::take(&mut self.head);
                self.is_last = head.is_last;
                self.is_tunnel = head.is_connect || (head.is_upgrade && !head.is_h2c);
                head.body().unwrap_or_else(|| self.behind())
            }
            State::Size => match chunk_size(line)? {
                0 => State::Trailers,
                size => State::Data(size),
            },
            State::DataEnd if line.is_empty() => State::Size,
            State::DataEnd => return Err(Malformed),
            State::Trailers if line.is_empty() => self.behind(),
            state => state,
        };
        Ok(())
    }
}

/// A line without its end.
enum Line<'a> {
    Here(&'a [u8]),
    /// From several readings, and whether there was more of it.
    Kept(Vec<u8>, bool),
}

impl Head {
    fn take(&mut self, line: &[u8], is_cut: bool) -> Result<(), Malformed> {
        if !mem::replace(&mut self.has_begun, true) {
            self.is_connect = line.starts_with(b"CONNECT ");
            let target = line.split(|byte| *byte == b' ').nth(1);
            let is_odd = target.is_some_and(|it| it.starts_with(b":"));
            if is_odd || line == b"PRI * HTTP/2.0" {
                return Err(Malformed);
            }
            return Ok(());
        }
        if let Some(value) = value_of(line, b"upgrade") {
            self.is_upgrade = true;
            self.is_h2c |= value
                .split(|byte| *byte == b',')
                .any(|token| trim(token).eq_ignore_ascii_case(b"h2c"));
        } else if let Some(value) = value_of(line, b"content-length") {
            if self.content_length.is_some() || self.is_chunked || is_cut {
                return Err(Malformed);
            }
            self.content_length = Some(content_length(value)?);
        } else if let Some(value) = value_of(line, b"transfer-encoding") {
            let is_chunked = value.eq_ignore_ascii_case(b"chunked");
            if !is_chunked || self.is_chunked || self.content_length.is_some() || is_cut {
                return Err(Malformed);
            }
            self.is_chunked = true;
        } else if let Some(value) = value_of(line, b"connection") {
            // Said in another way, it is not seen here, and costs no more than the wait for the client.
            self.is_last = value.eq_ignore_ascii_case(b"close");
        }
        Ok(())
    }

    /// Its body, where it has one.
    fn body(self) -> Option<State> {
        if self.is_connect {
            return None;
        }
        match self.content_length {
            _ if self.is_chunked => Some(State::Size),
            None | Some(0) => None,
            Some(length) => Some(State::Body(length)),
        }
    }
}

/// What stands behind `name` and a colon, where a line begins so.
fn value_of<'a>(line: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    // The colon first: nearly no line has one where the name would end.
    let (found, rest) = line.split_at_checked(name.len())?;
    let value = rest.strip_prefix(b":")?;
    found.eq_ignore_ascii_case(name).then(|| trim(value))
}

fn content_length(value: &[u8]) -> Result<u64, Malformed> {
    if value.is_empty() || value.len() > LENGTH_DIGITS {
        return Err(Malformed);
    }
    value.iter().try_fold(0_u64, |length, byte| match byte {
        b'0'..=b'9' => Ok(length * 10 + u64::from(byte - b'0')),
        _ => Err(Malformed),
    })
}

fn chunk_size(line: &[u8]) -> Result<u64, Malformed> {
    let mut size = 0_u64;
    let mut digits = 0;
    for byte in line {
        let Some(digit) = char::from(*byte).to_digit(16) else {
            break;
        };
        digits += 1;
        if digits > SIZE_DIGITS {
            return Err(Malformed);
        }
        size = size << 4 | u64::from(digit);
    }
    let behind = line.get(digits as usize..).unwrap_or_default();
    match (digits, behind.first(), trim(behind).first()) {
        (1.., None, _) | (1.., _, Some(b';')) => Ok(size),
        _ => Err(Malformed),
    }
}

/// Without the blanks around it; of other white space RFC 9110 knows none.
fn trim(value: &[u8]) -> &[u8] {
    let is_blank = |byte: &u8| matches!(byte, b' ' | b'\t');
    let begin = value
        .iter()
        .position(|byte| !is_blank(byte))
        .unwrap_or(value.len());
    let end = value
        .iter()
        .rposition(|byte| !is_blank(byte))
        .map_or(begin, |last| last + 1);
    value.get(begin..end).unwrap_or_default()
}

fn is_control(byte: u8) -> bool {
    byte.is_ascii_control() && byte != b'\t'
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stands_before_what_is_refused_is_good() {
        let get = "GET / HTTP/1.1\r\nhost: a\r\n\r\n";
        let post = "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n";
        for (good, bad, is_head) in [
            ("", "GET / HTTP/1.1\r\nhost: a\nx\r\n", true),
            (get, "GET / HTTP/1.1\r\nhost: a\r\nx\n\r\n", true),
            (post, "x\r\n", false),
        ] {
            let refused = Reader::default().read(format!("{good}{bad}").as_bytes());
            let good = good.len();
            assert_eq!(refused, Err(Refused { is_head, good }), "{bad:?}");
        }
    }
}
