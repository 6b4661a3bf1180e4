//! Where an upstream or a router is that is known by name, then and from then on.
//!
//! A name is looked up before anything is served, and again every ten seconds: it may move, and no
//! resolver of the system says for how long an answer is good. As long as an address is among the
//! answers it is kept, so that the connections to it are used again. What cannot be looked up any more
//! stays where it was. What never could is looked up every second, and its requests get 502 until then:
//! in a cluster the name of a service may come after its sidecar, and reroutes do not need it.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use devroute_tower::transport::UpstreamAddr;
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;

use crate::config::Location;
use crate::shutdown::Signal;

const PERIOD: Duration = Duration::from_secs(10);
/// While there is no address at all.
const FIRST_PERIOD: Duration = Duration::from_secs(1);
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(5);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// Where an upstream is, and whether that can change.
#[derive(Clone, Debug)]
pub(crate) enum Place {
    Fixed(SocketAddr),
    Named(Resolved),
}

impl Place {
    /// Looks for it.
    pub(crate) async fn of(at: &Location) -> Self {
        match at {
            Location::Address(addr) => Self::Fixed(*addr),
            Location::Name(name, port) => Self::Named(Resolved::new(name, *port).await),
        }
    }

    /// Looks it up again and again, until `signal`, where it is known by name.
    pub(crate) fn watch(&self, signal: &Signal) {
        if let Self::Named(named) = self {
            tokio::spawn(named.clone().watch(signal.clone()));
        }
    }

    /// Where it is, then and from then on.
    pub(crate) fn addr(&self) -> UpstreamAddr {
        match self {
            Self::Fixed(addr) => UpstreamAddr::new(*addr),
            Self::Named(named) => named.addr.clone(),
        }
    }
}

/// A name and the address it has, if any.
#[derive(Clone, Debug)]
pub(crate) struct Resolved {
    name: String,
    port: u16,
    pub(crate) addr: UpstreamAddr,
}

impl Resolved {
    async fn new(name: &str, port: u16) -> Self {
        let this = Self {
            name: name.to_owned(),
            port,
            addr: UpstreamAddr::unknown(),
        };
        // Who watches says so, if it goes on.
        let _ = this.refresh().await;
        this
    }

    /// Looks it up again and again, until `signal`.
    async fn watch(self, mut signal: Signal) {
        let mut failed = false;
        loop {
            let period = match self.addr.get() {
                Some(_) => PERIOD,
                None => FIRST_PERIOD,
            };
            tokio::select! {
                () = signal.wait() => return,
                () = tokio::time::sleep(period) => {}
            }
            match self.refresh().await {
                Ok(()) => failed = false,
                // Once, not again and again.
                Err(error) if !failed => {
                    failed = true;
                    tracing::warn!(name = self.name, %error, "the name cannot be looked up");
                }
                Err(_again) => {}
            }
        }
    }

    async fn refresh(&self) -> io::Result<()> {
        let found = lookup(&self.name, self.port).await?;
        let known = self.addr.get();
        if known.is_none_or(|known| !found.contains(&known)) {
            let addr = first_that_accepts(&found).await?;
            self.addr.set(addr);
            if known.is_some() {
                tracing::info!(name = self.name, %addr, "the name has moved");
            }
        }
        Ok(())
    }
}

async fn lookup(name: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    let found = timeout(LOOKUP_TIMEOUT, lookup_host((name, port)))
        .await
        .map_err(|_elapsed| io::Error::from(io::ErrorKind::TimedOut))??;
    Ok(found.collect())
}

/// A name may have an address of a family that leads nowhere, as `localhost` often has.
async fn first_that_accepts(found: &[SocketAddr]) -> io::Result<SocketAddr> {
    let (&first, others) = found
        .split_first()
        .ok_or_else(|| io::Error::other("it has no address"))?;
    if others.is_empty() {
        return Ok(first);
    }
    for &addr in found {
        if matches!(
            timeout(CONNECT_TIMEOUT, TcpStream::connect(addr)).await,
            Ok(Ok(_))
        ) {
            return Ok(addr);
        }
    }
    // Nothing listens yet; what a request meets then says so.
    Ok(first)
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn an_address_that_accepts_is_taken_before_one_that_does_not() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let accepts = listener.local_addr().unwrap();
        let gone = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let refuses = gone.local_addr().unwrap();
        drop(gone);
        let found = [refuses, accepts];
        assert_eq!(first_that_accepts(&found).await.unwrap(), accepts);
        let none = [refuses, refuses];
        assert_eq!(first_that_accepts(&none).await.unwrap(), refuses);
        assert!(first_that_accepts(&[]).await.is_err());
    }

    #[tokio::test]
    async fn an_address_is_left_as_it_is_while_the_name_still_has_it() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let resolved = Resolved::new("localhost", addr.port()).await;
        assert_eq!(resolved.addr.get(), Some(addr), "the one that accepts");
        resolved.refresh().await.unwrap();
        assert_eq!(resolved.addr.get(), Some(addr));
        // It is not one of the name's any more.
        resolved.addr.set("192.0.2.1:1".parse().unwrap());
        resolved.refresh().await.unwrap();
        assert_eq!(resolved.addr.get(), Some(addr));
        // A name that is gone leaves it there.
        let gone = Resolved {
            name: "nobody.invalid".to_owned(),
            ..resolved
        };
        gone.refresh().await.unwrap_err();
        assert_eq!(gone.addr.get(), Some(addr));
    }

    #[tokio::test(start_paused = true)]
    async fn what_has_no_address_is_looked_up_until_it_has() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let resolved = Resolved::new("nobody.invalid", addr.port()).await;
        assert_eq!(resolved.addr.get(), None);
        let found = Resolved {
            name: "localhost".to_owned(),
            ..resolved
        };
        let (trigger, signal) = crate::shutdown::channel();
        let watching = tokio::spawn(found.clone().watch(signal));
        while found.addr.get().is_none() {
            tokio::time::sleep(FIRST_PERIOD).await;
        }
        trigger.shut_down();
        watching.await.unwrap();
    }
}
