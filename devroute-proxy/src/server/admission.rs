//! How many connections there may be, in all and of one client.
//!
//! A client is an address, and of IPv6 a /64, which is what one machine has. Its connections are counted
//! only where there is a limit for them: the clients of a proxy are mostly proxies themselves.
//!
//! One that is one too many is not left in the queue, where its client would wait for nobody: it is
//! served to the point where it can be told 503, with little time and in a small number. Beyond that
//! number it is closed at once.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::metrics::{ConnectionMetrics, Limit, OpenConnection};

/// The connections at a time that are told why they are refused.
const REFUSED: usize = 128;

/// A connection that has been let in.
#[derive(Debug)]
pub(crate) struct Admitted {
    pub(super) open: OpenConnection,
    /// Where connections are limited.
    pub(super) place: Option<Place>,
}

impl From<OpenConnection> for Admitted {
    fn from(open: OpenConnection) -> Self {
        Self { open, place: None }
    }
}

impl Admitted {
    /// Lets a connection in that counts as `open`, or does not even tell it that it is one too many.
    ///
    /// Where several loops accept, a few more may get in than there may be.
    pub(crate) fn by(
        admission: &Admission,
        client: IpAddr,
        metrics: &Arc<ConnectionMetrics>,
    ) -> Option<Self> {
        let beyond = admission.beyond(client);
        if let Some(limit) = beyond {
            metrics.limit_reached(limit);
        }
        Some(Self {
            place: Some(admission.admit(client, beyond.is_some())?),
            open: Arc::clone(metrics).opened(),
        })
    }

    /// Whether it is only there to be told that it is one too many.
    pub(super) fn is_refused(&self) -> bool {
        self.place.as_ref().is_some_and(Place::is_refused)
    }
}

/// Counts the connections of a server.
#[derive(Clone, Debug)]
pub(crate) struct Admission {
    counts: Arc<Counts>,
    limit: usize,
    per_client: Option<usize>,
}

#[derive(Debug, Default)]
struct Counts {
    admitted: AtomicUsize,
    refused: AtomicUsize,
    /// Where there is a limit for one client.
    clients: Mutex<HashMap<IpAddr, usize>>,
}

/// A place in the count, free again when it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    counts: Arc<Counts>,
    refused: bool,
    /// Where it is counted as this client's.
    client: Option<IpAddr>,
}

impl Admission {
    pub(crate) fn new(limit: usize, per_client: Option<usize>) -> Self {
        Self {
            counts: Arc::default(),
            limit,
            per_client,
        }
    }

    /// The limit that one more connection of `client` is beyond.
    ///
    /// This and [`admit`](Self::admit) are for one caller at a time, which the accept loop is.
    pub(super) fn beyond(&self, client: IpAddr) -> Option<Limit> {
        if self.counts.admitted.load(Ordering::Relaxed) >= self.limit {
            return Some(Limit::Connections);
        }
        let limit = self.per_client?;
        let clients = self.counts.clients();
        let open = clients.get(&network(client)).copied().unwrap_or_default();
        (open >= limit).then_some(Limit::ClientConnections)
    }

    /// A place for one more connection of `client`, or none where it is `refused` and not even to be
    /// told so.
    pub(super) fn admit(&self, client: IpAddr, refused: bool) -> Option<Place> {
        let count = self.counts.of(refused);
        if refused && count.load(Ordering::Relaxed) >= REFUSED {
            return None;
        }
        count.fetch_add(1, Ordering::Relaxed);
        let client = self
            .per_client
            .filter(|_| !refused)
            .map(|_| network(client));
        if let Some(client) = client {
            *self.counts.clients().entry(client).or_default() += 1;
        }
        Some(Place {
            counts: Arc::clone(&self.counts),
            refused,
            client,
        })
    }
}

/// Who `client` is.
fn network(client: IpAddr) -> IpAddr {
    match client.to_canonical() {
        IpAddr::V6(client) => {
            let network = client.to_bits() >> 64 << 64;
            Ipv6Addr::from_bits(network).into()
        }
        client => client,
    }
}

impl Counts {
    fn clients(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.clients.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn of(&self, refused: bool) -> &AtomicUsize {
        if refused {
            &self.refused
        } else {
            &self.admitted
        }
    }
}

impl Place {
    /// Whether it is only there to be told that there is none.
    pub(super) fn is_refused(&self) -> bool {
        self.refused
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.counts.of(self.refused).fetch_sub(1, Ordering::Relaxed);
        let Some(client) = self.client else { return };
        if let Entry::Occupied(mut open) = self.counts.clients().entry(client) {
            *open.get_mut() -= 1;
            if *open.get() == 0 {
                open.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLIENT: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    fn admit(admission: &Admission, client: &str) -> (Option<Place>, Option<Limit>) {
        let client = client.parse().unwrap();
        let beyond = admission.beyond(client);
        (admission.admit(client, beyond.is_some()), beyond)
    }

    #[test]
    fn one_too_many_is_refused_until_another_has_gone() {
        let admission = Admission::new(2, None);
        let places = [(); 2].map(|()| admit(&admission, "10.0.0.1"));
        assert!(places.iter().all(|(_, beyond)| beyond.is_none()));
        let (third, beyond) = admit(&admission, "10.0.0.2");
        assert!(third.unwrap().is_refused());
        assert_eq!(beyond, Some(Limit::Connections));
        drop(places);
        assert_eq!(admit(&admission, "10.0.0.2").1, None);
        assert!(admission.counts.clients().is_empty(), "nobody asked for it");
    }

    #[test]
    fn one_client_leaves_room_for_others() {
        let admission = Admission::new(100, Some(2));
        let mut places = vec![];
        for (client, beyond) in [
            ("10.0.0.1", None),
            ("::ffff:10.0.0.1", None),
            ("10.0.0.1", Some(Limit::ClientConnections)),
            ("10.0.0.2", None),
            ("fd00::1", None),
            ("fd00::2", None),
            ("fd00::ffff:0:0:3", Some(Limit::ClientConnections)),
            ("fd00:0:0:1::1", None),
        ] {
            let (place, found) = admit(&admission, client);
            assert_eq!(found, beyond, "{client}");
            places.push(place);
        }
        places.remove(0);
        assert_eq!(admit(&admission, "10.0.0.1").1, None);
        drop(places);
        assert!(admission.counts.clients().is_empty());
    }

    #[test]
    fn refusing_is_bounded_too() {
        let admission = Admission::new(0, None);
        let places = [(); REFUSED].map(|()| admission.admit(CLIENT, true).unwrap());
        assert!(places.iter().all(|place| place.refused));
        assert!(admission.admit(CLIENT, true).is_none());
        drop(places);
        assert!(admission.admit(CLIENT, true).is_some());
    }
}
