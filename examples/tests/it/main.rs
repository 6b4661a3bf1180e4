//! The README is the test: every command in it is run, and what it prints is compared.
//!
//! `cargo run` starts the example that was built along with this test, on a free port; `curl` is read
//! here, so that none has to be installed. Addresses are translated from the ones in the text.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "in tests, helpers included, a panic is the message; clippy.toml covers only #[test]"
)]

mod curl;
mod readme;
mod story;

use crate::{readme::Readme, story::Story};

fn tell(example: &str) {
    let readme = Readme::read();
    let mut story = Story::new();
    for step in readme.section(example) {
        story.play(&step);
    }
}

#[test]
fn axum_service() {
    tell("axum-service");
}

#[test]
fn hyper_service() {
    tell("hyper-service");
}

#[test]
fn opentelemetry_service() {
    tell("opentelemetry-service");
}

#[test]
fn reqwest_0_12_client() {
    tell("reqwest-0-12-client");
}

#[test]
fn reqwest_client() {
    tell("reqwest-client");
}

#[test]
fn three_services() {
    tell("three-services");
}

#[test]
fn tonic_service() {
    tell("tonic-service");
}

#[test]
fn every_example_is_told_above_and_in_the_readme() {
    let tests = include_str!("main.rs");
    let mut files = readme::examples();
    for example in &files {
        assert!(tests.contains(&format!("tell(\"{example}\")")), "{example}");
    }
    let mut sections = Readme::read().titles();
    files.sort();
    sections.sort();
    assert_eq!(sections, files);
}

#[test]
fn what_an_example_says_of_itself_is_in_the_readme() {
    let readme = Readme::read();
    for example in readme::examples() {
        let known: Vec<_> = readme
            .section(&example)
            .into_iter()
            .map(|step| step.command)
            .collect();
        let commands = readme::commands_of_module(&example);
        assert!(!commands.is_empty(), "{example} does not say how to try it");
        for command in commands {
            assert!(known.contains(&command), "{example}: {command}");
        }
    }
}
