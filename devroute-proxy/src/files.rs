//! How many files the process may have open, which is how many connections it can have.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// What is open besides connections: listeners, runtimes, standard streams, and some room.
const OTHERS: u64 = 64;

/// Allows as many as the system lets a process allow itself; how many that is, if it is limited.
///
/// What shells and service managers hand down is a number for programs that call select(2), which
/// cannot handle more. This one does not call it.
pub(crate) fn allow_all() -> Option<u64> {
    let limit = getrlimit(Resource::Nofile);
    let wanted = Rlimit {
        current: limit.maximum,
        ..limit
    };
    if limit.current != wanted.current && setrlimit(Resource::Nofile, wanted).is_ok() {
        return wanted.current;
    }
    limit.current
}

/// The connections of clients that so many files leave room for: each may need a second one, to who
/// answers it.
pub(crate) fn connections(files: u64) -> usize {
    let connections = files.saturating_sub(OTHERS) / 2;
    usize::try_from(connections).unwrap_or(usize::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_takes_two_files() {
        assert_eq!(connections(1024), 480);
        assert_eq!(connections(64), 1);
        assert_eq!(connections(0), 1);
    }

    #[test]
    fn what_is_allowed_is_what_the_system_says_then() {
        assert_eq!(allow_all(), getrlimit(Resource::Nofile).current);
        assert_eq!(allow_all(), getrlimit(Resource::Nofile).maximum);
    }
}
