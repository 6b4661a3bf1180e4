//! As much of curl as the README uses.

use reqwest::Client;

/// Does what curl does with these arguments, and returns what it prints.
#[tokio::main(flavor = "current_thread")]
pub(crate) async fn run(arguments: &[String]) -> String {
    let mut headers = Vec::new();
    let mut body = None;
    let mut write_out = String::new();
    let mut discard = false;
    let mut url = None;

    let mut arguments = arguments.iter();
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().expect("the option takes a value");
        match argument.as_str() {
            "-H" => headers.push(value().split_once(": ").unwrap()),
            "-d" => body = Some(value().clone()),
            "-o" => {
                assert_eq!(value(), "/dev/null");
                discard = true;
            }
            "-w" => write_out = value().replace("\\n", "\n"),
            option if option.starts_with('-') => panic!("this curl does not know {option}"),
            place => assert_eq!(url.replace(place), None, "one URL"),
        }
    }

    let client = Client::builder().no_proxy().build().unwrap();
    let url = url.expect("a URL");
    let mut request = match body {
        Some(body) => client.post(url).body(body),
        None => client.get(url),
    };
    for (name, value) in headers {
        request = request.header(name, value);
    }
    let answer = request.send().await.unwrap();
    let status = answer.status();
    let mut printed = answer.text().await.unwrap();
    if discard {
        printed.clear();
    }
    printed + &write_out.replace("%{http_code}", status.as_str())
}
