//! Who may ask, and who may not.

use devroute_inspector::{Inspector, Limits, Page};
use http::StatusCode;
use http_body_util::BodyExt as _;

use crate::support::Desk;

#[tokio::test]
async fn a_page_is_on_loopback_only() {
    for address in ["0.0.0.0:0", "[::]:0", "192.168.1.12:0"] {
        let error = Page::bind(&Inspector::new(), address.parse().unwrap()).await;
        let error = error.unwrap_err().to_string();
        assert!(error.contains("is not on loopback"), "{address}: {error}");
    }
}

/// The status for a request with these fields in the place of the page's own.
async fn status(
    desk: &Desk,
    method: &str,
    path: &str,
    changes: &[(&'static str, &str)],
) -> StatusCode {
    let mut headers = desk.headers();
    for (name, value) in changes {
        headers.retain(|(known, _)| known != name);
        if !value.is_empty() {
            headers.push((name, (*value).to_owned()));
        }
    }
    desk.send(method, path, &headers).await.status()
}

#[tokio::test]
async fn whoever_has_no_token_is_told_nothing() {
    let desk = Desk::closed(Limits::default()).await;
    let almost = format!("{}0", desk.token.split_at(desk.token.len() - 1).0);
    for token in ["", "0", almost.as_str()] {
        if token == desk.token {
            continue;
        }
        for (method, path) in [
            ("GET", "/api/events"),
            ("GET", "/api/exchanges/1"),
            ("GET", "/api/search?q="),
            ("POST", "/api/clear"),
            ("POST", "/api/exchanges/1/replay"),
        ] {
            let status = status(&desk, method, path, &[("x-devroute-token", token)]).await;
            assert_eq!(status, StatusCode::FORBIDDEN, "{method} {path} {token}");
        }
    }
    assert!(!desk.inspector.is_watched());
    assert_eq!(desk.token.len(), 64);
    let other = Desk::closed(Limits::default()).await;
    assert_ne!(desk.token, other.token);
}

#[tokio::test]
async fn a_name_that_leads_here_is_not_this_page() {
    let desk = Desk::closed(Limits::default()).await;
    let port = desk.address.port();
    for host in [
        format!("evil.example:{port}"),
        "127.0.0.1".to_owned(),
        format!("127.0.0.1:{port}.evil.example"),
        format!("localhost.evil.example:{port}"),
    ] {
        for path in ["/", "/page.js", "/api/search?q="] {
            let status = status(&desk, "GET", path, &[("host", &host)]).await;
            assert_eq!(status, StatusCode::MISDIRECTED_REQUEST, "{host} {path}");
        }
    }
    let localhost = format!("localhost:{port}");
    let status = status(&desk, "GET", "/api/search?q=", &[("host", &localhost)]).await;
    assert_eq!(status, StatusCode::OK);
}

#[tokio::test]
async fn what_changes_something_comes_from_the_page() {
    let desk = Desk::closed(Limits::default()).await;
    let port = desk.address.port();
    for origin in [
        String::new(),
        "null".to_owned(),
        "https://evil.example".to_owned(),
        format!("https://127.0.0.1:{port}"),
        format!("http://127.0.0.1:{}", port.wrapping_add(1)),
    ] {
        let status = status(&desk, "POST", "/api/clear", &[("origin", &origin)]).await;
        assert_eq!(status, StatusCode::FORBIDDEN, "{origin}");
    }
    let status = status(&desk, "POST", "/api/clear", &[]).await;
    assert_eq!(status, StatusCode::NO_CONTENT);
}

#[tokio::test]
async fn the_page_itself_is_no_secret_and_may_talk_to_nobody_else() {
    let desk = Desk::closed(Limits::default()).await;
    for (path, kind) in [
        ("/", "text/html; charset=utf-8"),
        ("/page.js", "text/javascript; charset=utf-8"),
        ("/page.css", "text/css; charset=utf-8"),
        ("/icon.svg", "image/svg+xml"),
        ("/elsewhere", ""),
    ] {
        let headers = [("host", desk.address.to_string())];
        let response = desk.send("GET", path, &headers).await;
        let fields = response.headers();
        if !kind.is_empty() {
            assert_eq!(fields["content-type"], kind);
        }
        let policy = fields["content-security-policy"].to_str().unwrap();
        assert!(policy.starts_with("default-src 'none';"), "{policy}");
        assert!(!policy.contains("unsafe"), "{policy}");
        for (name, value) in [
            ("cache-control", "no-store"),
            ("referrer-policy", "no-referrer"),
            ("x-content-type-options", "nosniff"),
            ("x-frame-options", "DENY"),
            ("cross-origin-opener-policy", "same-origin"),
            ("cross-origin-resource-policy", "same-origin"),
        ] {
            assert_eq!(fields[name], value, "{path}");
        }
        assert!(!fields.contains_key("set-cookie"), "{path}");
        let text = response.into_body().collect().await.unwrap().to_bytes();
        let text = std::str::from_utf8(&text).unwrap();
        assert!(!text.contains(&desk.token), "{path}");
    }
}

/// Nothing that a wire could fill becomes markup, and nothing comes from elsewhere.
#[test]
fn the_script_makes_text_of_everything() {
    let script = include_str!("../../assets/page.js");
    for word in [
        "innerHTML",
        "outerHTML",
        "insertAdjacentHTML",
        "document.write",
        "eval(",
        "new Function",
    ] {
        assert!(!script.contains(word), "{word}");
    }
    let page = include_str!("../../assets/page.html");
    for word in ["style=", "onclick=", "//cdn", "https://"] {
        assert!(!page.contains(word), "{word}");
    }
}
