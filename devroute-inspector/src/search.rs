//! Which exchanges a text is in.

use http::HeaderMap;

use crate::exchange::{Captured, Exchange, target};
use crate::mask;

/// What is looked for, in small letters.
#[derive(Debug)]
pub(crate) struct Search(String);

impl Search {
    pub(crate) fn new(text: &str) -> Self {
        Self(text.trim().to_lowercase())
    }

    /// Whether it is in the target, the service, its caller, the status, a field that is shown, or a body.
    ///
    /// Not in credentials: whoever could look for them could read them, a letter at a time.
    pub(crate) fn is_in(&self, exchange: &Exchange) -> bool {
        let head = &exchange.head;
        let status = exchange
            .answer
            .as_ref()
            .map(|answer| answer.status.as_u16().to_string());
        let line = format!(
            "{} {} {} {} {}",
            head.method,
            target(&head.uri),
            exchange.service,
            exchange.caller().unwrap_or_default(),
            status.unwrap_or_default()
        );
        self.is_in_text(&line)
            || self.is_in_fields(&head.headers)
            || self.is_in_body(&exchange.request)
            || exchange
                .answer
                .as_ref()
                .is_some_and(|answer| self.is_in_fields(&answer.headers))
            || self.is_in_body(&exchange.response)
    }

    fn is_in_text(&self, text: &str) -> bool {
        text.to_lowercase().contains(&self.0)
    }

    fn is_in_fields(&self, headers: &HeaderMap) -> bool {
        headers.iter().any(|(name, value)| {
            let value = if mask::is_masked(name, value) {
                String::new()
            } else {
                mask::text(value)
            };
            self.is_in_text(&format!("{name}: {value}"))
        })
    }

    fn is_in_body(&self, body: &Captured) -> bool {
        self.is_in_text(&String::from_utf8_lossy(&body.kept))
            || body
                .trailers
                .as_ref()
                .is_some_and(|trailers| self.is_in_fields(trailers))
    }
}
