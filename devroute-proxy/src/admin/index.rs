//! The page at `/`: what runs here, where to look, and the last reroutes.
//!
//! One self-contained document; it loads nothing and runs no script, and says so to the browser.

use std::fmt::{self, Write as _};
use std::sync::Arc;

use axum::extract::State;
use axum::http::header;
use axum::response::{Html, IntoResponse, Response};

use super::Admin;
use crate::metrics::Listener;
use crate::records::Record;

const SHOWN: usize = 50;
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'";

pub(super) async fn page(State(admin): State<Arc<Admin>>) -> Response {
    let mut page = String::with_capacity(8 * 1024);
    // Only a failing writer makes this fail, and a String does not.
    let _ = write(&mut page, &admin);
    let headers = [
        (header::CACHE_CONTROL, "no-store"),
        (header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY),
    ];
    (headers, Html(page)).into_response()
}

fn write(page: &mut String, admin: &Admin) -> fmt::Result {
    let title = Escaped(&admin.title);
    let version = env!("CARGO_PKG_VERSION");
    let (class, state) = if admin.signal.is_shutting_down() {
        ("bad", "draining")
    } else {
        ("good", "ready")
    };
    let open = admin.metrics.open_connections(Listener::Proxy);
    write!(
        page,
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>devroute: {title}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n\
         <h1>devroute <small>{version}</small></h1>\n\
         <p>{title} &middot; <span class=\"{class}\">{state}</span> &middot; open connections: {open}</p>\n\
         {LINKS}"
    )?;

    let records = admin.records.latest(None);
    page.push_str("<h2>Last reroutes</h2>\n");
    if records.is_empty() {
        page.push_str("<p class=\"empty\">None yet. A request whose contract names this service will show up here.</p>\n");
    } else {
        page.push_str(
            "<div class=\"scroll\"><table>\n<thead><tr><th scope=\"col\">Time (UTC)</th>\
             <th scope=\"col\">Run</th><th scope=\"col\">Service</th><th scope=\"col\">Target</th>\
             <th scope=\"col\">Outcome</th><th scope=\"col\">Status</th><th scope=\"col\" class=\"number\">ms</th>\
             <th scope=\"col\">Trace</th></tr></thead>\n<tbody>\n",
        );
        for record in records.iter().take(SHOWN) {
            row(page, record)?;
        }
        page.push_str("</tbody>\n</table></div>\n");
    }
    page.push_str("</main>\n</body>\n</html>\n");
    Ok(())
}

fn row(page: &mut String, record: &Record) -> fmt::Result {
    let class = match record.outcome {
        "rerouted" if record.ended.is_none() => "good",
        "rerouted" | "fallback" | "abandoned" => "warn",
        _ => "bad",
    };
    let text = |text: &Option<String>| Escaped(text.as_deref().unwrap_or("\u{2013}")).to_string();
    let cause = record
        .cause
        .as_deref()
        .or(record.ended)
        .map_or_else(String::new, |cause| format!(": {cause}"));
    writeln!(
        page,
        "<tr><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td><span class=\"{class}\">{}{}</span>\
         </td><td>{}</td><td class=\"number\">{:.1}</td><td>{}</td></tr>",
        record.timestamp(),
        text(&record.id),
        text(&record.service),
        text(&record.target),
        record.outcome,
        Escaped(&cause),
        record.status,
        record.ms,
        text(&record.trace_id),
    )
}

/// Text in HTML, inside an element or a quoted attribute.
struct Escaped<'a>(&'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for letter in self.0.chars() {
            match letter {
                '&' => f.write_str("&amp;")?,
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '"' => f.write_str("&quot;")?,
                '\'' => f.write_str("&#39;")?,
                other => f.write_char(other)?,
            }
        }
        Ok(())
    }
}

const LINKS: &str = "<ul>\n\
    <li><a href=\"/reroutes\">/reroutes</a> the last reroutes as JSON; \
    <code>?id=RUN</code> only those of one test run</li>\n\
    <li><a href=\"/metrics\">/metrics</a> counters and latencies for Prometheus</li>\n\
    <li><a href=\"/_readyz\">/_readyz</a> 200, or 503 while draining</li>\n\
    <li><a href=\"/_healthz\">/_healthz</a> 200 as long as the process lives</li>\n</ul>\n";

const STYLE: &str = "\
:root{color-scheme:light dark;--ink:#1c2127;--soft:#5a6572;--line:#dfe3e8;--page:#fff;\
--good:#0b6b3a;--warn:#8a5300;--bad:#b3261e;--link:#0b57d0}\
@media(prefers-color-scheme:dark){:root{--ink:#e6e9ed;--soft:#a3adb8;--line:#343b44;--page:#14181d;\
--good:#6bd69a;--warn:#f0b45c;--bad:#ff8f86;--link:#8ab4f8}}\
body{margin:0;background:var(--page);color:var(--ink);font:16px/1.5 system-ui,sans-serif}\
main{max-width:80rem;margin:0 auto;padding:2rem 1.25rem}\
h1{font-size:1.6rem;margin:0}h1 small,.empty{color:var(--soft);font-weight:400}\
h1 small{font-size:1rem}h2{font-size:1.15rem;margin:2rem 0 .5rem}\
ul{padding:0;list-style:none}li{margin:.25rem 0;padding-left:6.5rem;text-indent:-6.5rem}\
li *{text-indent:0}a{color:var(--link);display:inline-block;min-width:6.2rem}\
code,td{font-family:ui-monospace,monospace;font-size:.875rem;white-space:nowrap}\
.scroll{overflow-x:auto}table{border-collapse:collapse;width:100%}\
th,td{text-align:left;padding:.4rem .8rem .4rem 0;border-bottom:1px solid var(--line);white-space:nowrap}\
th{color:var(--soft);font-weight:600;font-size:.8rem}\
.number{text-align:right;font-variant-numeric:tabular-nums}\
.good{color:var(--good)}.warn{color:var(--warn)}.bad{color:var(--bad)}";
