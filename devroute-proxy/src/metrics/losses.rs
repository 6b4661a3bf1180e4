//! What no decision tells about a request: that it was refused before one was made, and what was lost
//! on its way.

use std::sync::atomic::{AtomicU64, Ordering};

/// Why a request was refused before anything was decided about it, as a label.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Refused {
    /// It has no `Host`, and is not of HTTP/1.0.
    NoHost,
    /// It has more than one `Host`.
    SeveralHosts,
    /// Its `Host` cannot be one.
    MalformedHost,
    /// What it asks for is neither a path, a URI, nor an asterisk.
    MalformedTarget,
    /// It asks for a tunnel.
    Connect,
    /// It is not HTTP; the server has answered it.
    Malformed,
}

impl Refused {
    /// All of them, in the order of their counters.
    pub const ALL: [Self; 6] = [
        Self::NoHost,
        Self::SeveralHosts,
        Self::MalformedHost,
        Self::MalformedTarget,
        Self::Connect,
        Self::Malformed,
    ];

    /// The label.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NoHost => "no_host",
            Self::SeveralHosts => "several_hosts",
            Self::MalformedHost => "malformed_host",
            Self::MalformedTarget => "malformed_target",
            Self::Connect => "connect",
            Self::Malformed => "malformed",
        }
    }
}

/// When a client went away, as a label.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Phase {
    /// Before the head of the answer.
    Head,
    /// Before the end of its body.
    Body,
}

impl Phase {
    /// All of them, in the order of their counters.
    pub const ALL: [Self; 2] = [Self::Head, Self::Body];

    /// The label.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Head => "head",
            Self::Body => "body",
        }
    }
}

/// Which way a message goes, as a label.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Message {
    /// From the client.
    Request,
    /// To the client.
    Response,
}

impl Message {
    /// All of them, in the order of their counters.
    pub const ALL: [Self; 2] = [Self::Request, Self::Response];

    /// The label.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Request => "request",
            Self::Response => "response",
        }
    }
}

/// Counters of one thread.
#[derive(Debug, Default)]
pub(crate) struct Losses {
    refused: [AtomicU64; Refused::ALL.len()],
    client_gone: [AtomicU64; Phase::ALL.len()],
    trailers: [AtomicU64; Message::ALL.len()],
    cut: AtomicU64,
}

impl Losses {
    /// Counts a request that was refused before anything was decided.
    pub(crate) fn refuse(&self, reason: Refused) {
        add(&self.refused, reason as usize);
    }

    /// Counts a request whose client went away before its answer was complete.
    pub(crate) fn client_gone(&self, phase: Phase) {
        add(&self.client_gone, phase as usize);
    }

    /// Counts a message some of whose trailers were dropped.
    pub(crate) fn trailers_dropped(&self, message: Message) {
        add(&self.trailers, message as usize);
    }

    /// Counts an answer that broke off where it came from.
    pub(crate) fn answer_cut(&self) {
        self.cut.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn refused(&self, reason: Refused) -> u64 {
        get(&self.refused, reason as usize)
    }

    pub(super) fn gone(&self, phase: Phase) -> u64 {
        get(&self.client_gone, phase as usize)
    }

    pub(super) fn dropped(&self, message: Message) -> u64 {
        get(&self.trailers, message as usize)
    }

    pub(super) fn cut(&self) -> u64 {
        self.cut.load(Ordering::Relaxed)
    }
}

fn add(counters: &[AtomicU64], index: usize) {
    if let Some(counter) = counters.get(index) {
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

fn get(counters: &[AtomicU64], index: usize) -> u64 {
    let counter = counters.get(index);
    counter.map_or(0, |counter| counter.load(Ordering::Relaxed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_follow_the_order_of_the_counters() {
        for (index, reason) in Refused::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, index, "{}", reason.as_str());
        }
        for (index, phase) in Phase::ALL.into_iter().enumerate() {
            assert_eq!(phase as usize, index, "{}", phase.as_str());
        }
        for (index, message) in Message::ALL.into_iter().enumerate() {
            assert_eq!(message as usize, index, "{}", message.as_str());
        }
    }
}
