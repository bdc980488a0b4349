//! A line to the gateway that can be cut. No page in a browser can break a connection of its own: to close a stream is to stay away.

use std::{io, net::SocketAddr, time::Duration};

use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    sync::watch,
    time::sleep,
};

/// Passes on what comes at its address, byte for byte.
pub struct Line {
    pub address: SocketAddr,
    cut: watch::Sender<()>,
}

impl Line {
    /// Next to the gateway's port if that is free, so that a page that was open before a restart finds it again.
    pub async fn to(gateway: SocketAddr) -> io::Result<Self> {
        let next = gateway.port().wrapping_add(1);
        let listener = match TcpListener::bind((gateway.ip(), next)).await {
            Ok(listener) => listener,
            Err(_) => TcpListener::bind((gateway.ip(), 0)).await?,
        };
        let address = listener.local_addr()?;
        let (cut, seen) = watch::channel(());
        tokio::spawn(accept(listener, gateway, seen));
        Ok(Self { address, cut })
    }

    /// Breaks all connections, a little later, or whoever asked for it would not get an answer.
    pub async fn cut(&self) {
        sleep(Duration::from_millis(100)).await;
        self.cut.send_replace(());
    }
}

async fn accept(listener: TcpListener, gateway: SocketAddr, cut: watch::Receiver<()>) {
    loop {
        let Ok((mut client, _)) = listener.accept().await else {
            sleep(Duration::from_millis(50)).await;
            continue;
        };
        let mut cut = cut.clone();
        tokio::spawn(async move {
            cut.mark_unchanged();
            let Ok(mut server) = TcpStream::connect(gateway).await else {
                return;
            };
            tokio::select! {
                _ = copy_bidirectional(&mut client, &mut server) => {}
                _ = cut.changed() => {}
            }
        });
    }
}
