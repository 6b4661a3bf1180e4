//! The demo is the story it tells, and leaves nothing behind.

use std::io::BufRead;
use std::net::SocketAddr;

use crate::support::{Client, Devroute, Server, until_refused};

/// Every port of its range would be too high, so all of them are free ones.
const FREE: &str = "--port 65535";

#[test]
fn once_shows_both_ways_and_the_killed_laptop() {
    let output = Devroute::new(&format!("demo --once {FREE}")).run();
    assert_eq!(output.status, Some(0), "{output:?}");
    for expected in [
        "A (cluster) -> B (cluster) -> C (cluster)",
        "A (cluster) -> B (laptop) -> C (cluster)",
        "ok: status 502",
        "ok: it names the service, b",
        "ok: it says why: the connection was refused",
        "All of it as it should be.",
    ] {
        assert!(output.out.contains(expected), "{expected}\n{}", output.out);
    }
    assert_eq!(
        output.err, "",
        "nothing is logged in a story that goes well"
    );
}

#[test]
fn under_fallback_the_cluster_answers_for_the_killed_laptop() {
    let output = Devroute::new(&format!("demo --once --on-failure fallback {FREE}")).run();
    assert_eq!(output.status, Some(0), "{output:?}");
    assert_eq!(
        output
            .out
            .matches("ok: \"A (cluster) -> B (cluster) -> C (cluster)\"")
            .count(),
        3
    );
}

/// Reads lines until one begins with `prefix`; what comes behind it.
fn line_after(out: &mut impl BufRead, prefix: &str) -> String {
    out.lines()
        .map(Result::unwrap)
        .find_map(|line| line.trim().strip_prefix(prefix).map(str::to_owned))
        .unwrap_or_else(|| panic!("no line begins with {prefix:?}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn it_stays_up_and_its_laptop_dies_with_it_even_when_it_is_killed() {
    let (mut child, mut out) = Devroute::new(&format!("demo {FREE}")).spawn();
    let (address, laptop, out) = tokio::task::spawn_blocking(move || {
        let a = line_after(&mut out, "A  ");
        let address: SocketAddr = a.split(' ').next().unwrap().parse().unwrap();
        line_after(&mut out, "B  ");
        let laptop = line_after(&mut out, "B  ");
        let laptop: SocketAddr = laptop.split(' ').next().unwrap().parse().unwrap();
        line_after(&mut out, "It stays up");
        (address, laptop, out)
    })
    .await
    .unwrap();
    let contract = format!(r#"{{"b":"{laptop}"}}"#);
    let answer = Client::get(address, "/").contract(&contract).send().await;
    assert_eq!(answer.text, "A (cluster) -> B (laptop) -> C (cluster)");

    child.kill().unwrap();
    child.wait().unwrap();
    until_refused(laptop).await;
    drop(out);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_laptop_can_be_killed_with_the_line_it_prints() {
    let (mut child, mut out) = Devroute::new(&format!("demo {FREE}")).spawn();
    let (address, laptop) = tokio::task::spawn_blocking(move || {
        let a = line_after(&mut out, "A  ");
        let address: SocketAddr = a.split(' ').next().unwrap().parse().unwrap();
        line_after(&mut out, "B  ");
        let laptop = line_after(&mut out, "B  ");
        let laptop: SocketAddr = laptop.split(' ').next().unwrap().parse().unwrap();
        let pid = line_after(&mut out, "kill ");
        // The first line with `kill` is the sentence, the second the command.
        let pid = if pid.parse::<u32>().is_ok() {
            pid
        } else {
            line_after(&mut out, "kill ")
        };
        assert!(
            std::process::Command::new("kill")
                .arg(pid)
                .status()
                .unwrap()
                .success()
        );
        line_after(&mut out, "The laptop (process");
        (address, laptop)
    })
    .await
    .unwrap();
    until_refused(laptop).await;
    let contract = format!(r#"{{"b":"{laptop}"}}"#);
    let answer = Client::get(address, "/").contract(&contract).send().await;
    assert_eq!(answer.status, http::StatusCode::BAD_GATEWAY);
    assert_eq!(answer.json()["cause"], "connection_refused");
    child.kill().unwrap();
    child.wait().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_taken_port_is_replaced_by_a_free_one() {
    let taken = Server::says("not the demo").await;
    // The sidecar of A is at the first port after the given one.
    let line = format!("demo --once --port {}", taken.address.port() - 1);
    let output = tokio::task::spawn_blocking(move || Devroute::new(&line).run())
        .await
        .unwrap();
    assert_eq!(output.status, Some(0), "{output:?}");
    assert!(
        !output.out.contains(&format!("{} ", taken.address)),
        "{}",
        output.out
    );
}
