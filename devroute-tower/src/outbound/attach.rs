//! What is done to an outgoing request's header, and why not.

use devroute_core::{
    Contract, ContractError,
    carrier::{self, Unwritten, Written},
};
use http::{Extensions, HeaderMap, Uri, header::HOST, uri::Authority};

use super::{InternalHosts, notice};
use crate::{context, mode::Mode, unwritten::Hook};

/// Returns the fields that carry the contract in scope to `uri`, by the default list of
/// [`InternalHosts`].
///
/// For clients that are not a tower service, and whose requests cannot be changed before they are
/// sent; where they can, [`DevRouteClientLayer::prepare`](super::DevRouteClientLayer::prepare) does
/// all that the layer does. Empty where no contract is in scope, or where `uri`
/// has no authority or leads to a host that is not internal. Add the fields before the
/// application's own: a `baggage` field may be among them.
///
/// A client that follows redirects repeats these fields at the new place. Switch that off, or stop
/// it at the boundary with [`InternalHosts::may_follow`].
///
/// ```
/// use devroute_tower::{context, outbound::outgoing_headers};
///
/// let contract: devroute_core::Contract = r#"{"foo":"192.168.1.12:8001"}"#.parse()?;
/// let inside = "http://checkout:8080/cart".parse()?;
/// let outside = "http://example.com/".parse()?;
///
/// context::sync_scope(contract, || {
///     let headers = outgoing_headers(&inside);
///     assert_eq!(headers["x-devroute"], r#"{"foo":"192.168.1.12:8001"}"#);
///     assert!(headers.contains_key("baggage"));
///
///     assert!(outgoing_headers(&outside).is_empty());
/// });
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use]
pub fn outgoing_headers(uri: &Uri) -> HeaderMap {
    // The list is only made where there is something to send.
    match context::current() {
        Some(contract) => headers_for(&InternalHosts::default(), uri, contract),
        None => HeaderMap::new(),
    }
}

impl InternalHosts {
    /// Does what [`outgoing_headers`] does, by this list.
    #[must_use]
    pub fn outgoing_headers(&self, uri: &Uri) -> HeaderMap {
        match context::current() {
            Some(contract) => headers_for(self, uri, contract),
            None => HeaderMap::new(),
        }
    }
}

/// The settings that decide about an outgoing request.
#[derive(Clone, Debug)]
pub(crate) struct Attach {
    pub(crate) mode: Mode,
    pub(crate) hosts: InternalHosts,
    /// Where requests without an authority go.
    pub(crate) destination: Option<Authority>,
    pub(super) on_unwritten: Option<Hook>,
}

impl Default for Attach {
    fn default() -> Self {
        Self {
            mode: Mode::On,
            hosts: InternalHosts::default(),
            destination: None,
            on_unwritten: None,
        }
    }
}

/// What is known of a request before anything is done to it; absent where nothing has to be done.
#[derive(Debug)]
pub(crate) struct Pending {
    /// From the extensions or the scope; the field on the request takes precedence over it.
    contract: Option<Contract>,
}

impl Attach {
    /// Looks for a contract, or for a field that must go. `None` is the path of everybody who has
    /// no contract: one pass over the names of the fields, one look-up in the extensions, one thread-local
    /// read.
    pub(crate) fn find(&self, headers: &HeaderMap, extensions: &Extensions) -> Option<Pending> {
        if self.mode == Mode::Off {
            return None;
        }
        let contract = extensions
            .get::<Contract>()
            .cloned()
            .or_else(context::current);
        let concerned = contract.is_some()
            || carrier::may_concern(headers)
                && (carrier::is_present(headers) || headers.contains_key(&carrier::MATCHED));
        concerned.then_some(Pending { contract })
    }

    /// Applies steps 2 to 5 of the [module](super); returns the destination where it is internal.
    pub(crate) fn apply(
        &self,
        uri: &Uri,
        headers: &mut HeaderMap,
        pending: Pending,
    ) -> Option<Authority> {
        headers.remove(&carrier::MATCHED);
        let Some(authority) = self.destination(uri, headers) else {
            if pending.contract.is_some() {
                notice::unknown_destination();
            }
            return None;
        };
        if !self.hosts.contains(&authority) {
            carrier::remove(headers);
            return None;
        }
        match chosen(headers, pending) {
            Ok(Some(contract)) => self.write(headers, &contract),
            Ok(None) => {}
            // Not ours to repair: the next hop answers 400 and says what is wrong with it.
            Err(error) => notice::malformed(&error),
        }
        Some(authority)
    }

    fn write(&self, headers: &mut HeaderMap, contract: &Contract) {
        if let (Some(reason), Some(hook)) = (write(headers, contract), &self.on_unwritten) {
            hook.tell(reason);
        }
    }

    fn destination(&self, uri: &Uri, headers: &HeaderMap) -> Option<Authority> {
        uri.authority()
            .or(self.destination.as_ref())
            .cloned()
            .or_else(|| host(headers))
    }
}

/// The contract that goes along.
///
/// A member alone counts only where nothing else says otherwise: an OpenTelemetry SDK copies the one
/// that came in to every outgoing request, whether the contract beside it was another one, and
/// whichever scope the application has opened since.
fn chosen(headers: &HeaderMap, pending: Pending) -> Result<Option<Contract>, ContractError> {
    match carrier::header::read(headers)?.or(pending.contract) {
        Some(contract) => Ok(Some(contract)),
        None => carrier::baggage::read(headers),
    }
}

/// Where a request goes by what it says itself.
pub(crate) fn authority_of(uri: &Uri, headers: &HeaderMap) -> Option<Authority> {
    uri.authority().cloned().or_else(|| host(headers))
}

/// Reads `Host`, which names the destination of an origin-form request (RFC 9110, section 7.2).
/// Two of them name nothing.
fn host(headers: &HeaderMap) -> Option<Authority> {
    let mut values = headers.get_all(HOST).iter();
    let value = values.next()?;
    if values.next().is_some() {
        return None;
    }
    Authority::try_from(value.as_bytes()).ok()
}

fn headers_for(hosts: &InternalHosts, uri: &Uri, contract: Contract) -> HeaderMap {
    let mut headers = HeaderMap::new();
    if uri
        .authority()
        .is_some_and(|authority| hosts.contains(authority))
    {
        write(&mut headers, &contract);
    }
    headers
}

/// Writes both carriers; the reason where the member could not be.
fn write(headers: &mut HeaderMap, contract: &Contract) -> Option<Unwritten> {
    match carrier::write(headers, contract) {
        Written::Both => None,
        Written::FieldOnly(reason) => {
            notice::field_only(reason);
            Some(reason)
        }
    }
}
