//! A proxy that is out of descriptors waits for some to come free.

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

/// Set for a process that runs the example, to the upstream's address.
const UPSTREAM: &str = "TEST_HYPER_EXAMPLE_UPSTREAM";

/// The example itself, in a process of its own that the other test starts.
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
async fn the_hyper_example_survives_that_it_runs_out_of_descriptors() {
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
            .unwrap_or_else(|| panic!("it ended without saying {part:?}"))
    };
    let address: SocketAddr = next("listening on ").parse().unwrap();
    let mut many = Vec::new();
    for _ in 0..40 {
        many.push(TcpStream::connect(address).await.unwrap());
    }
    assert!(next("cannot accept: ").contains("Too many open files"));
    drop(many);
    // Of what it still writes nothing is read, and the pipe has room for that.
    let (body, ended) = get(Protocol::Http1, address).await.rest().await;
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(body, "data: 1\n\n");
    assert!(ended.is_clean());
}
