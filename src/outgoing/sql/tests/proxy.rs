//! A proxy before the server, which can keep answers back.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;

#[derive(Default)]
struct Switches {
    /// From a COMMIT on, the client gets nothing any more.
    swallows: AtomicBool,
    has_swallowed: AtomicBool,
    /// The client's connections end.
    cuts: AtomicBool,
}

pub(super) struct Proxy {
    pub(super) port: u16,
    switches: Arc<Switches>,
}

impl Proxy {
    pub(super) fn start(runtime: &Handle, server: u16) -> Self {
        let switches = Arc::<Switches>::default();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let port = listener.local_addr().unwrap().port();
        let own = switches.clone();
        runtime.spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(serve(client, server, own.clone()));
            }
        });
        Self { port, switches }
    }

    pub(super) fn swallow_commits(&self, swallows: bool) {
        self.switches.has_swallowed.store(false, Ordering::SeqCst);
        self.switches.swallows.store(swallows, Ordering::SeqCst);
    }

    pub(super) fn has_swallowed(&self) -> bool {
        self.switches.has_swallowed.load(Ordering::SeqCst)
    }

    pub(super) fn cut(&self, cuts: bool) {
        self.switches.cuts.store(cuts, Ordering::SeqCst);
    }
}

async fn serve(client: TcpStream, server: u16, switches: Arc<Switches>) {
    let Ok(server) = TcpStream::connect(("127.0.0.1", server)).await else {
        return;
    };
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let is_mute = AtomicBool::new(false);
    let requests = async {
        let mut bytes = [0; 4096];
        while let Ok(count @ 1..) = from_client.read(&mut bytes).await {
            let is_commit = bytes[..count].windows(6).any(|word| word == b"COMMIT");
            if is_commit && switches.swallows.load(Ordering::SeqCst) {
                is_mute.store(true, Ordering::SeqCst);
            }
            if to_server.write_all(&bytes[..count]).await.is_err() {
                break;
            }
        }
    };
    let answers = async {
        let mut bytes = [0; 4096];
        while let Ok(count @ 1..) = from_server.read(&mut bytes).await {
            if is_mute.load(Ordering::SeqCst) {
                switches.has_swallowed.store(true, Ordering::SeqCst);
            } else if to_client.write_all(&bytes[..count]).await.is_err() {
                break;
            }
        }
    };
    let cut = async {
        while !switches.cuts.load(Ordering::SeqCst) {
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        }
    };
    // The end of one side ends the other.
    tokio::select! {
        () = requests => {}
        () = answers => {}
        () = cut => {}
    }
}
