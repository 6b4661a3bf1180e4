//! Reads the commands, and what they print, out of the README.

use std::{collections::BTreeMap, fs, path::Path};

/// A command and the lines it prints.
#[derive(Clone, Debug)]
pub(crate) struct Step {
    pub(crate) command: String,
    pub(crate) prints: Vec<String>,
}

/// The steps by section.
pub(crate) struct Readme(BTreeMap<String, Vec<Step>>);

impl Readme {
    pub(crate) fn read() -> Self {
        let text = fs::read_to_string(package().join("README.md")).unwrap();
        let mut sections = BTreeMap::<String, Vec<Step>>::new();
        let mut title = None;
        let mut in_console = false;
        for line in text.lines() {
            if let Some(fence) = line.strip_prefix("```") {
                in_console = fence == "console";
            } else if let Some(section) = line.strip_prefix("## ") {
                sections.insert(section.to_owned(), Vec::new());
                title = Some(section.to_owned());
            } else if in_console {
                let title = title.as_ref().expect("a command belongs to an example");
                let steps = sections.get_mut(title).unwrap();
                match (line.strip_prefix("$ "), steps.last_mut()) {
                    (Some(command), _) => steps.push(Step {
                        command: command.to_owned(),
                        prints: Vec::new(),
                    }),
                    (None, Some(step)) => step.prints.push(line.to_owned()),
                    (None, None) => panic!("{title} begins with {line:?} instead of a command"),
                }
            }
        }
        Self(sections)
    }

    pub(crate) fn section(&self, title: &str) -> Vec<Step> {
        self.0
            .get(title)
            .unwrap_or_else(|| panic!("no section {title}"))
            .clone()
    }

    pub(crate) fn titles(&self) -> Vec<String> {
        self.0.keys().cloned().collect()
    }
}

/// The names of the examples, by their files.
pub(crate) fn examples() -> Vec<String> {
    let files = fs::read_dir(package()).unwrap();
    let names = files.map(|file| file.unwrap().file_name().into_string().unwrap());
    names
        .filter_map(|name| name.strip_suffix(".rs").map(str::to_owned))
        .collect()
}

/// The commands in the documentation of an example.
pub(crate) fn commands_of_module(example: &str) -> Vec<String> {
    let text = fs::read_to_string(package().join(format!("{example}.rs"))).unwrap();
    text.lines()
        .filter_map(|line| line.strip_prefix("//! $ ").map(str::to_owned))
        .collect()
}

fn package() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}
