//! Texts of the files in `tests/vectors/`.

use serde::Deserialize;

/// A text that stands there as it is, in hexadecimal digits, or is to be built.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Text {
    text: Option<String>,
    hex: Option<String>,
    #[serde(default)]
    head: String,
    #[serde(default)]
    part: String,
    #[serde(default)]
    repeat: usize,
    #[serde(default)]
    tail: String,
}

impl Text {
    pub(crate) fn bytes(&self) -> Vec<u8> {
        if let Some(text) = &self.text {
            return text.clone().into_bytes();
        }
        if let Some(hex) = &self.hex {
            let digits: Vec<u8> = hex.chars().map(|c| c.to_digit(16).unwrap() as u8).collect();
            return digits.chunks(2).map(|two| two[0] << 4 | two[1]).collect();
        }
        let parts = if self.part.contains('#') {
            (0..self.repeat)
                .map(|n| self.part.replace('#', &n.to_string()))
                .collect()
        } else {
            self.part.repeat(self.repeat)
        };
        format!("{}{parts}{}", self.head, self.tail).into_bytes()
    }
}

/// The document that tells how many vectors there are tells the truth.
pub(crate) fn is_counted(file: &str, vectors: usize) {
    let model = include_str!("../../../docs/security-model.md");
    let said = format!("**{vectors}** vectors in `devroute-core/tests/vectors/{file}`");
    assert!(
        model.contains(&said),
        "docs/security-model.md lacks: {said}"
    );
}
