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

/// The connections, to clients and to who answers them, that so many files leave room for.
pub(crate) fn room(files: u64) -> usize {
    usize::try_from(files.saturating_sub(OTHERS)).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn not_every_file_is_a_connection() {
        assert_eq!(room(1024), 960);
        assert_eq!(room(0), 0);
    }

    #[test]
    fn what_is_allowed_is_what_the_system_says_then() {
        assert_eq!(allow_all(), getrlimit(Resource::Nofile).current);
        assert_eq!(allow_all(), getrlimit(Resource::Nofile).maximum);
    }
}
