//! Plays the commands of one section, with the addresses that the examples really got.

use std::{
    collections::BTreeMap,
    env,
    io::{BufRead as _, BufReader},
    net::SocketAddr,
    path::PathBuf,
    process::{Child, ChildStdout, Command, Stdio},
};

use tokio::net::TcpSocket;

use crate::{curl, readme::Step};

const HOST: &str = "127.0.0.1:";

pub(crate) struct Story {
    /// From the port in the text to the real one.
    ports: BTreeMap<u16, u16>,
    /// Ports that are taken, so that nobody else listens there, and refuse connections.
    nobody: Vec<TcpSocket>,
    running: Vec<Running>,
}

impl Story {
    pub(crate) fn new() -> Self {
        Self {
            ports: BTreeMap::new(),
            nobody: Vec::new(),
            running: Vec::new(),
        }
    }

    pub(crate) fn play(&mut self, step: &Step) {
        let words = words(&step.command);
        let is_variable = |word: &&String| word.contains('=');
        let (variables, command) = words.split_at(words.iter().take_while(is_variable).count());
        let command: Vec<_> = command.iter().map(String::as_str).collect();
        match command.as_slice() {
            ["cargo", "run", "--example", name] => self.start(name, variables, &step.prints),
            ["cargo", "run", "--example", name, "--", _port] => {
                self.start(name, variables, &step.prints);
            }
            ["curl", arguments @ ..] => {
                let arguments: Vec<_> = arguments.iter().map(|it| self.translate(it)).collect();
                let printed = curl::run(&arguments);
                let expected = self.translate(&step.prints.join("\n"));
                assert_prints(&step.command, printed.trim_end_matches('\n'), &expected);
            }
            other => panic!("{other:?} is not a command this test knows"),
        }
    }

    /// Starts an example on a free port, and learns the addresses that it prints.
    fn start(&mut self, example: &str, variables: &[String], prints: &[String]) {
        assert!(!prints.is_empty(), "{example} is to say where it listens");
        let mut running = Running::start(example, variables);
        for expected in prints {
            let line = running.line();
            for (documented, real) in ports(expected).into_iter().zip(ports(&line)) {
                self.ports.insert(documented, real);
            }
            assert_prints(example, &line, &self.translate(expected));
        }
        self.running.push(running);
    }

    /// Replaces the ports of the text by the real ones, on loopback and in URLs of the outside.
    fn translate(&mut self, text: &str) -> String {
        let mut translated = String::new();
        let mut rest = text;
        while let Some((before, port, after)) = split_at_port(rest) {
            translated.push_str(before);
            translated.push_str(&self.real_port(port).to_string());
            rest = after;
        }
        translated + rest
    }

    fn real_port(&mut self, documented: u16) -> u16 {
        *self.ports.entry(documented).or_insert_with(|| {
            // Bound, and never listening.
            let socket = TcpSocket::new_v4().unwrap();
            socket.bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
            let port = socket.local_addr().unwrap().port();
            self.nobody.push(socket);
            port
        })
    }
}

fn assert_prints(command: &str, printed: &str, expected: &str) {
    match expected.strip_suffix('…') {
        Some(start) => assert!(
            printed.starts_with(start),
            "{command}\n printed: {printed}\nexpected: {expected}"
        ),
        None => assert_eq!(printed, expected, "{command}"),
    }
}

fn ports(line: &str) -> Vec<u16> {
    let mut ports = Vec::new();
    let mut rest = line;
    while let Some((_, port, after)) = split_at_port(rest) {
        ports.push(port);
        rest = after;
    }
    ports
}

/// Splits at the first port behind our address, or behind the name that stands for the outside.
fn split_at_port(text: &str) -> Option<(&str, u16, &str)> {
    let hosts = [HOST, "outside.example:"].into_iter();
    let start = hosts
        .filter_map(|host| Some(text.find(host)? + host.len()))
        .min()?;
    let (before, rest) = text.split_at(start);
    let end = rest
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(rest.len());
    let (port, after) = rest.split_at(end);
    Some((before, port.parse().unwrap(), after))
}

/// Splits a command as a shell does: single quotes group, and a comment ends it.
fn words(command: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = None::<String>;
    let mut quoted = false;
    for c in command.chars() {
        match c {
            '\'' => {
                quoted = !quoted;
                word.get_or_insert_default();
            }
            ' ' if !quoted => words.extend(word.take()),
            '#' if !quoted && word.is_none() => return words,
            c => word.get_or_insert_default().push(c),
        }
    }
    assert!(!quoted, "{command} has an open quote");
    words.extend(word);
    words
}

/// An example that runs until this is dropped.
struct Running {
    name: String,
    process: Child,
    output: BufReader<ChildStdout>,
}

impl Running {
    fn start(example: &str, variables: &[String]) -> Self {
        let variables = variables
            .iter()
            .map(|variable| variable.split_once('=').unwrap());
        let mut process = Command::new(built(example))
            .arg("0")
            .env_remove("DEVROUTE")
            .envs(variables)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = BufReader::new(process.stdout.take().unwrap());
        Self {
            name: example.to_owned(),
            process,
            output,
        }
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        let read = self.output.read_line(&mut line).unwrap();
        assert_ne!(read, 0, "{} ended: {:?}", self.name, self.process.wait());
        line.trim_end().to_owned()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Where cargo puts an example: beside the directory of this test. It builds them with
/// `cargo test -p devroute-examples`, but not when it is asked for this test alone.
fn built(example: &str) -> PathBuf {
    let test = env::current_exe().unwrap();
    let profile = test.parent().and_then(|deps| deps.parent()).unwrap();
    let path = profile
        .join("examples")
        .join(format!("{example}{}", env::consts::EXE_SUFFIX));
    assert!(
        path.exists(),
        "{} is not built: cargo build -p devroute-examples --examples",
        path.display()
    );
    path
}
