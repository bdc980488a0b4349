//! A TCP relay in front of the gateway that can break its connections. The demo page needs it: a browser page can close an
//! `EventSource`, but it cannot break the connection and thereby test the automatic reconnect.

use std::{io, net::SocketAddr, time::Duration};

use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    sync::watch,
    time::sleep,
};

/// Copies bytes between its clients and the gateway.
pub struct Relay {
    pub address: SocketAddr,
    cut: watch::Sender<()>,
}

impl Relay {
    /// Starts a relay. It listens on the port after the gateway's, or on any free port if that one is taken. With a fixed port, an
    /// open page works again after a restart.
    pub async fn start(gateway: SocketAddr) -> io::Result<Self> {
        let next = gateway.port().wrapping_add(1);
        let listener = match TcpListener::bind((gateway.ip(), next)).await {
            Ok(listener) => listener,
            Err(_) => TcpListener::bind((gateway.ip(), 0)).await?,
        };
        let address = listener.local_addr()?;
        let (cut, cuts) = watch::channel(());
        tokio::spawn(accept(listener, gateway, cuts));
        Ok(Self { address, cut })
    }

    /// Breaks all connections after 100 ms. The delay lets the response to the request for the cut arrive.
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
