//! A reading of HTTP/1.1 by the letter of RFC 9112, which takes nothing on trust and knows no other
//! implementation: what it does not take is no request.
//!
//! It is the measure of both sides: of what a client has sent, and of what a target got.

/// A request that came whole.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Request {
    pub(crate) method: String,
    /// As it was written.
    pub(crate) target: Vec<u8>,
    pub(crate) fields: Vec<(String, Vec<u8>)>,
    pub(crate) body: Vec<u8>,
    is_http_10: bool,
}

/// How a stream of requests ended.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum End {
    /// With the last byte of a request, or with no byte.
    Clean,
    /// Before the end of a request, of whose body so much had come. Without a head it is `None`.
    Incomplete(Option<Request>),
    /// In a head that is none.
    BadHead,
    /// In a body that is none, of which so much had come.
    BadBody(Request),
    /// Behind a request that is the last one by its own word, or that may become a tunnel.
    Last,
}

/// All that a stream holds.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Reading {
    pub(crate) requests: Vec<Request>,
    pub(crate) end: End,
    /// How many bytes the requests take that came whole.
    pub(crate) length: usize,
}

/// Why something is not there.
#[derive(Debug, Eq, PartialEq)]
enum Stop {
    /// More may come.
    Short,
    Bad,
}

type Parsed<T> = Result<T, Stop>;

/// How the end of a body is told.
enum Framing {
    Length(usize),
    Chunked,
}

/// Reads all of a stream.
pub(crate) fn read(bytes: &[u8]) -> Reading {
    let mut rest = bytes;
    let mut requests = Vec::new();
    let mut length = 0;
    let end = loop {
        // At least one empty line before a request is to be ignored (section 2.2).
        while let Some(behind) = rest.strip_prefix(b"\r\n") {
            rest = behind;
        }
        if rest.is_empty() {
            break End::Clean;
        }
        let (mut request, framing) = match head(&mut rest) {
            Ok(head) => head,
            Err(Stop::Short) => break End::Incomplete(None),
            Err(Stop::Bad) => break End::BadHead,
        };
        match body(&mut rest, &framing, &mut request.body) {
            Ok(()) => {}
            Err(Stop::Short) => break End::Incomplete(Some(request)),
            Err(Stop::Bad) => break End::BadBody(request),
        }
        let is_last = request.is_last();
        requests.push(request);
        length = bytes.len() - rest.len();
        if is_last {
            break End::Last;
        }
    };
    Reading {
        requests,
        end,
        length,
    }
}

impl Request {
    pub(crate) fn all(&self, name: &str) -> Vec<&[u8]> {
        let fields = self.fields.iter().filter(|(field, _)| field == name);
        fields.map(|(_, value)| &**value).collect()
    }

    fn has_token(&self, name: &str, token: &str) -> bool {
        self.all(name)
            .iter()
            .flat_map(|value| value.split(|byte| *byte == b','))
            .any(|it| trim(it).eq_ignore_ascii_case(token.as_bytes()))
    }

    fn is_last(&self) -> bool {
        let keeps = self.has_token("connection", "keep-alive");
        let upgrades = !self.all("upgrade").is_empty() && !self.has_token("upgrade", "h2c");
        self.has_token("connection", "close")
            || (self.is_http_10 && !keeps)
            || upgrades
            || self.method == "CONNECT"
    }

    /// The authority that it asks for, and the path there.
    pub(crate) fn place(&self) -> (Vec<u8>, Vec<u8>) {
        let host = self.all("host").first().map(|it| it.to_vec());
        let host = host.unwrap_or_default();
        let target = &self.target;
        let Some(at) = target.windows(3).position(|it| it == b"://") else {
            return (host, target.clone());
        };
        if target.starts_with(b"/") {
            return (host, target.clone());
        }
        let behind = &target[at + 3..];
        let end = behind.iter().position(|it| b"/?".contains(it));
        let (authority, path) = behind.split_at(end.unwrap_or(behind.len()));
        let slash: &[u8] = if path.starts_with(b"/") { b"" } else { b"/" };
        (authority.to_vec(), [slash, path].concat())
    }
}

fn head(rest: &mut &[u8]) -> Parsed<(Request, Framing)> {
    let mut request = request_line(line(rest)?)?;
    loop {
        let line = line(rest)?;
        if line.is_empty() {
            break;
        }
        request.fields.push(field(line)?);
    }
    let framing = framing(&request)?;
    host(&request)?;
    Ok((request, framing))
}

/// A line without its end, which is CRLF, and in which there is no CR and no LF.
fn line<'a>(rest: &mut &'a [u8]) -> Parsed<&'a [u8]> {
    let Some(at) = rest.iter().position(|it| b"\r\n\0".contains(it)) else {
        return Err(Stop::Short);
    };
    match rest[at..] {
        [b'\r', b'\n', ..] => {
            let line = &rest[..at];
            *rest = &rest[at + 2..];
            Ok(line)
        }
        [b'\r'] => Err(Stop::Short),
        _ => Err(Stop::Bad),
    }
}

fn request_line(line: &[u8]) -> Parsed<Request> {
    let parts: Vec<&[u8]> = line.split(|it| *it == b' ').collect();
    let [method, target, version] = parts[..] else {
        return Err(Stop::Bad);
    };
    let is_http_10 = version == b"HTTP/1.0";
    if !is_token(method) || !is_target(method, target) || !(is_http_10 || version == b"HTTP/1.1") {
        return Err(Stop::Bad);
    }
    Ok(Request {
        method: String::from_utf8(method.to_vec()).unwrap(),
        target: target.to_vec(),
        fields: Vec::new(),
        body: Vec::new(),
        is_http_10,
    })
}

/// Section 3.2. What is in a path is for its reader, but not that it could be two words, or have a
/// fragment.
fn is_target(method: &[u8], target: &[u8]) -> bool {
    let is_text = target
        .iter()
        .all(|it| *it > b' ' && *it != 0x7f && *it != b'#');
    if !is_text || target.is_empty() {
        return false;
    }
    if method == b"CONNECT" {
        return is_host(target) && target.contains(&b':');
    }
    if target == b"*" {
        return method == b"OPTIONS";
    }
    let scheme = target.split(|it| *it == b':').next().unwrap();
    // RFC 3986, section 3.1.
    let is_of_scheme = |it: &u8| it.is_ascii_alphanumeric() || b"+-.".contains(it);
    let is_absolute = scheme.iter().all(is_of_scheme)
        && target[scheme.len()..].starts_with(b"://")
        && !scheme.is_empty()
        && target[scheme.len() + 3..]
            .split(|it| b"/?".contains(it))
            .next()
            .is_some_and(|host| !host.is_empty() && !host.starts_with(b":") && is_host(host));
    target.starts_with(b"/") || is_absolute
}

/// Section 5.
fn field(line: &[u8]) -> Parsed<(String, Vec<u8>)> {
    let colon = line.iter().position(|it| *it == b':').ok_or(Stop::Bad)?;
    let (name, value) = (&line[..colon], trim(&line[colon + 1..]));
    let is_value = value
        .iter()
        .all(|it| *it == b'\t' || (*it >= b' ' && *it != 0x7f));
    if !is_token(name) || !is_value {
        return Err(Stop::Bad);
    }
    let name = String::from_utf8(name.to_ascii_lowercase()).unwrap();
    Ok((name, value.to_vec()))
}

/// Section 6, of which nothing that is only allowed to be taken is taken.
fn framing(request: &Request) -> Parsed<Framing> {
    let (lengths, codings) = (
        request.all("content-length"),
        request.all("transfer-encoding"),
    );
    match (&lengths[..], &codings[..]) {
        ([], []) => Ok(Framing::Length(0)),
        ([length], []) => {
            if length.is_empty() || length.len() > 19 || !length.iter().all(u8::is_ascii_digit) {
                return Err(Stop::Bad);
            }
            let length = std::str::from_utf8(length).unwrap().parse();
            Ok(Framing::Length(length.ok().ok_or(Stop::Bad)?))
        }
        ([], [coding]) if coding.eq_ignore_ascii_case(b"chunked") && !request.is_http_10 => {
            Ok(Framing::Chunked)
        }
        _ => Err(Stop::Bad),
    }
}

/// Section 3.2: one, which is a host; HTTP/1.0 may have none.
fn host(request: &Request) -> Parsed<()> {
    match request.all("host")[..] {
        [host] if is_host(host) => Ok(()),
        [] if request.is_http_10 => Ok(()),
        _ => Err(Stop::Bad),
    }
}

/// Characters of RFC 3986, section 3.2.2, and a port.
fn is_host(host: &[u8]) -> bool {
    let (name, port) = match host {
        [b'[', ..] => match host.iter().position(|it| *it == b']') {
            Some(end) => (&host[1..end], &host[end + 1..]),
            None => return false,
        },
        _ => host.split_at(host.iter().position(|it| *it == b':').unwrap_or(host.len())),
    };
    let is_port = port.is_empty() || (port[0] == b':' && port[1..].iter().all(u8::is_ascii_digit));
    let is_ip_literal = host.starts_with(b"[");
    is_port
        && name.iter().all(|it| {
            it.is_ascii_alphanumeric()
                || b"-._~%!$&'()*+;=".contains(it)
                || (is_ip_literal && *it == b':')
        })
}

fn body(rest: &mut &[u8], framing: &Framing, body: &mut Vec<u8>) -> Parsed<()> {
    if let Framing::Length(length) = framing {
        return take(rest, *length, body);
    }
    loop {
        let size = chunk_size(line(rest)?)?;
        if size == 0 {
            break;
        }
        take(rest, size, body)?;
        match rest {
            [b'\r', b'\n', ..] => *rest = &rest[2..],
            [] | [b'\r'] => return Err(Stop::Short),
            _ => return Err(Stop::Bad),
        }
    }
    loop {
        let line = line(rest)?;
        if line.is_empty() {
            return Ok(());
        }
        field(line)?;
    }
}

fn take(rest: &mut &[u8], length: usize, into: &mut Vec<u8>) -> Parsed<()> {
    let (now, behind) = rest.split_at(length.min(rest.len()));
    into.extend_from_slice(now);
    *rest = behind;
    if now.len() < length {
        return Err(Stop::Short);
    }
    Ok(())
}

/// Section 7.1; of an extension only that it is text behind a semicolon.
fn chunk_size(line: &[u8]) -> Parsed<usize> {
    let digits = line.iter().take_while(|it| it.is_ascii_hexdigit()).count();
    let (number, behind) = line.split_at(digits);
    let is_extension = trim(behind).starts_with(b";")
        && behind
            .iter()
            .all(|it| *it == b'\t' || (*it >= b' ' && *it != 0x7f));
    if !(1..=16).contains(&digits) || !(behind.is_empty() || is_extension) {
        return Err(Stop::Bad);
    }
    let number = std::str::from_utf8(number).unwrap();
    usize::from_str_radix(number, 16).ok().ok_or(Stop::Bad)
}

fn is_token(text: &[u8]) -> bool {
    !text.is_empty()
        && text
            .iter()
            .all(|it| it.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(it))
}

fn trim(value: &[u8]) -> &[u8] {
    let is_blank = |it: &u8| *it == b' ' || *it == b'\t';
    let begin = value.iter().take_while(|it| is_blank(it)).count();
    let end = value[begin..]
        .iter()
        .rev()
        .take_while(|it| is_blank(it))
        .count();
    &value[begin..value.len() - end]
}
