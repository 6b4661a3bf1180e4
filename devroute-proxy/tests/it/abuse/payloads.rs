//! The payloads of `tests/payloads/`, whose README says how they are written.

use serde_json::Value;

/// A payload, of which `¤` stands for the fields that a way needs.
#[derive(Clone, Debug)]
pub(crate) struct Payload {
    pub(crate) name: String,
    text: String,
    /// How many requests of it reach the target; of an answer, the status that the client gets.
    pub(crate) want: usize,
    alternative: String,
    /// All that the file says of it.
    pub(crate) entry: Value,
}

/// Those of a file: an entry with alternatives is as many payloads.
pub(crate) fn of(file: &str) -> Vec<Payload> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/payloads");
    let file = std::fs::read_to_string(format!("{folder}/{file}")).unwrap();
    let mut payloads = Vec::new();
    for line in file.lines() {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let entry: Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
        let name = entry["name"].as_str().unwrap();
        let text = entry["send"].as_str().unwrap();
        let want = entry["want"].as_u64().unwrap_or_default() as usize;
        let is_answer = want >= 200;
        assert!(
            want == 0 || is_answer || entry["why"].is_string(),
            "{name} says why"
        );
        let alternatives = match (&entry["each"], &entry["fill"]) {
            (Value::Array(each), _) => each.iter().map(|it| it.as_str().unwrap().into()).collect(),
            (_, Value::Array(fill)) => {
                let (text, times) = (fill[0].as_str().unwrap(), fill[1].as_u64().unwrap());
                vec![text.repeat(times as usize)]
            }
            _ => vec![String::new()],
        };
        for alternative in alternatives {
            let name = match &entry["each"] {
                Value::Array(_) => format!("{name} {}", alternative.escape_debug()),
                _ => name.to_owned(),
            };
            let text = text.replace('§', &alternative);
            payloads.push(Payload {
                name,
                text,
                want,
                alternative,
                entry: entry.clone(),
            });
        }
    }
    payloads
}

impl Payload {
    /// Its bytes, with these fields in its requests.
    pub(crate) fn bytes(&self, fields: &str) -> Vec<u8> {
        latin_1(&self.text.replace('¤', fields))
    }

    /// What the target sends when the client has its answer.
    pub(crate) fn late(&self) -> Option<Vec<u8>> {
        let late = self.entry["late"].as_str()?;
        Some(latin_1(&late.replace('§', &self.alternative)))
    }
}

/// A byte for each character.
pub(crate) fn latin_1(text: &str) -> Vec<u8> {
    text.chars().map(|it| u8::try_from(it).unwrap()).collect()
}

#[test]
fn the_security_model_has_the_counts_and_no_advisory_without_a_payload() {
    let model = include_str!("../../../../docs/security-model.md");
    let mut refs = String::new();
    for file in ["requests.jsonl", "responses.jsonl", "http2.jsonl"] {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/payloads");
        let text = std::fs::read_to_string(format!("{folder}/{file}")).unwrap();
        let lines = text.lines().filter(|line| line.starts_with('{'));
        let entries = lines.map(|line| serde_json::from_str::<Value>(line).unwrap());
        let mut count = 0;
        for entry in entries {
            count += entry["each"].as_array().map_or(1, Vec::len);
            refs += &entry["refs"].to_string();
        }
        let said = format!("**{count}** payloads in `devroute-proxy/tests/payloads/{file}`");
        assert!(
            model.contains(&said),
            "docs/security-model.md lacks: {said}"
        );
    }
    let http = model.split("\n### HTTP\n").nth(1).unwrap();
    let http = http.split("\n### ").next().unwrap();
    for (at, _) in http.match_indices("CVE-") {
        let end = |it: char| !it.is_ascii_alphanumeric() && it != '-';
        let advisory = http.split_at(at).1.split(end).next().unwrap();
        // Nothing here has a cache.
        let is_known = refs.contains(&format!("{advisory} (")) || advisory == "CVE-2026-2836";
        assert!(is_known, "no payload is after {advisory}");
    }
}
