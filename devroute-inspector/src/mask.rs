//! Credentials, which are shown to nobody who has not asked for them.

use http::header::{
    AUTHORIZATION, COOKIE, HeaderMap, HeaderName, HeaderValue, PROXY_AUTHORIZATION, SET_COOKIE,
};
use serde_json::{Value, json};

/// Whether a field is masked.
pub(crate) fn is_masked(name: &HeaderName, value: &HeaderValue) -> bool {
    const MASKED: [HeaderName; 4] = [AUTHORIZATION, COOKIE, PROXY_AUTHORIZATION, SET_COOKIE];
    value.is_sensitive() || MASKED.contains(name)
}

/// Fields for the page, those of credentials without their values unless `reveal`.
pub(crate) fn fields(headers: &HeaderMap, reveal: bool) -> Value {
    let fields = headers.iter().map(|(name, value)| {
        let is_masked = is_masked(name, value);
        let shown = (reveal || !is_masked).then(|| text(value));
        json!({
            "name": name.as_str(),
            "value": shown,
            "secret": is_masked,
            "bytes": value.len(),
        })
    });
    fields.collect()
}

/// A value as text; what is none is written as escapes.
pub(crate) fn text(value: &HeaderValue) -> String {
    match std::str::from_utf8(value.as_bytes()) {
        Ok(text) if !text.chars().any(char::is_control) => text.to_owned(),
        _ => value.as_bytes().escape_ascii().to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_not_in_what_the_page_gets() {
        let mut headers = HeaderMap::new();
        for name in [
            "Authorization",
            "cookie",
            "set-cookie",
            "proxy-authorization",
        ] {
            let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
            headers.append(name.clone(), HeaderValue::from_static("hunter2"));
            headers.append(name, HeaderValue::from_static("hunter2"));
        }
        let mut sensitive = HeaderValue::from_static("hunter2");
        sensitive.set_sensitive(true);
        headers.insert("x-token", sensitive);
        headers.insert("x-plain", HeaderValue::from_static("plain"));
        let shown = fields(&headers, false);
        assert!(!shown.to_string().contains("hunter2"), "{shown}");
        assert!(shown.to_string().contains("plain"));
        assert_eq!(shown.as_array().unwrap().len(), 10);
        let revealed = fields(&headers, true).to_string();
        assert_eq!(revealed.matches("hunter2").count(), 9);
    }

    #[test]
    fn a_value_of_any_bytes_is_text() {
        let value = HeaderValue::from_bytes(b"a\xff\tb").unwrap();
        assert_eq!(text(&value), r"a\xff\tb");
        let value = HeaderValue::from_bytes("ü".as_bytes()).unwrap();
        assert_eq!(text(&value), "ü");
    }
}
