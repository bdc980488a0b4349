//! A proxy without free file descriptors accepts connections again when some are closed.

use std::{
    env,
    io::{BufRead, BufReader},
    net::SocketAddr,
    process::{Command, Stdio},
};

use crate::{
    hyper_example::serve_all,
    support::{Protocol, Upstream, get, sse},
};
use tokio::net::{TcpListener, TcpStream};

/// The environment variable with the address of the upstream, set only for the child process.
const UPSTREAM: &str = "TEST_HYPER_EXAMPLE_UPSTREAM";

/// Runs the example in the child process of the other test.
#[tokio::test]
async fn example_in_a_child_process() {
    let Ok(upstream) = env::var(UPSTREAM) else {
        return;
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    eprintln!("listening on {}", listener.local_addr().unwrap());
    serve_all(listener, upstream).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn hyper_example_survives_that_it_runs_out_of_descriptors() {
    let upstream = Upstream::answering(sse("data: 1\n\n")).await;
    let mut child = Command::new("sh")
        .args(["-c", "ulimit -n 32; exec \"$0\" \"$@\""])
        .arg(env::current_exe().unwrap())
        .args([
            "--exact",
            "descriptors::example_in_a_child_process",
            "--nocapture",
        ])
        .env(UPSTREAM, upstream.to_string())
        .stderr(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let mut next = |part: &str| {
        lines
            .by_ref()
            .map_while(Result::ok)
            .find_map(|line| line.split_once(part).map(|(_, rest)| rest.to_owned()))
            .unwrap_or_else(|| panic!("the example ended without the output {part:?}"))
    };
    let address: SocketAddr = next("listening on ").parse().unwrap();
    let mut many = Vec::new();
    for _ in 0..40 {
        many.push(TcpStream::connect(address).await.unwrap());
    }
    assert!(next("cannot accept: ").contains("Too many open files"));
    drop(many);
    // The test does not read the rest of the output, which fits into the pipe.
    let (body, ended) = get(Protocol::Http1, address).await.rest().await;
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(body, "data: 1\n\n");
    assert!(ended.is_clean());
}
