//! Clients that read nothing of a large stream.

use bytes::Bytes;
use http::Request;

use crate::{
    serving::gateway,
    support::{BOTH, Read, Upstream, fetch, sse_chunked},
};

const MIB: usize = 1 << 20;

/// The size of the stream.
const STREAM: usize = 256 * MIB;

/// The maximum number of bytes that the gateway and the kernel may read of the stream if the client reads nothing.
const MOST: usize = 32 * MIB;

#[tokio::test]
async fn r34_client_that_reads_nothing_stops_its_upstream_and_no_other_client() {
    // On these paths a stream has one reader.
    for (path, protocol) in ["/s/a", "/r/a", "/mcp"]
        .into_iter()
        .flat_map(|path| BOTH.map(|protocol| (path, protocol)))
    {
        let mut upstream = Upstream::start().await;
        let gateway = gateway(&[("SSEP_ALLOWED_HOSTS", "test")], upstream.address).await;
        let get = |path: &str| {
            let request = Request::get(path).header("mcp-protocol-version", "2025-11-25");
            tokio::spawn(fetch(
                protocol,
                gateway,
                request.body(Bytes::new()).unwrap(),
            ))
        };
        let asking = get("/s/other");
        let mut ticks = upstream.next().await;
        ticks.write(sse_chunked()).await;
        let mut other = asking.await.unwrap();

        let asking = get(path);
        let mut exchange = upstream.next().await;
        exchange.write(sse_chunked()).await;
        let mut slow = asking.await.unwrap();
        let large = "data: ".to_owned() + &"x".repeat(64 << 10) + "\n\n";
        let flood = exchange.flood(move |_| large.clone(), STREAM);
        let (_, taken) = flood
            .until_stalled(async || {
                ticks.chunk("data: tick\n\n").await;
                other.until("data: tick\n\n").await;
            })
            .await;
        assert!(taken <= MOST, "{path} {protocol:?}: {taken} bytes");

        // The rest arrives when the client reads.
        let mut read = 0;
        while read < taken {
            match slow.read().await {
                Read::Data(data) => read += data.len(),
                Read::Over(ended) => panic!("{path} {protocol:?}: {ended:?} after {read} bytes"),
            }
        }
        drop(flood);
        let _ = (slow, other);
    }
}
