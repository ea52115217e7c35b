//! The demo's owner: a data folder, a client node, verbs on it.

use std::{path::Path, time::Duration};

use cairn_proto::network_file::NetworkFile;
use serde_json::Value;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::{
    api::server::{Call, Service},
    cli::render::DemoScreen,
    daemon::{Node, NodeService, NodeSettings, folder},
    data_dir::{DataDir, WriterLock},
    failure::{ExitCode, Failure},
    ops::{Event, SecretText, Verb},
};

/// Peers are on this machine; who is not met by then is not there.
const MEET: Duration = Duration::from_secs(15);

/// An owner with a running client.
pub(super) struct Owner {
    service: NodeService,
    _lock: WriterLock,
}

impl Owner {
    /// A new vault in a new folder; and its phrase.
    pub(super) async fn new(home: &Path, network: &NetworkFile) -> Result<(Self, SecretText), Failure> {
        let dir = DataDir::open(home)?;
        let phrase = folder::make_vault(&dir, None).await?;
        Ok((Self::start(dir, network).await?, phrase))
    }

    /// A blank folder.
    pub(super) async fn blank(home: &Path, network: &NetworkFile) -> Result<Self, Failure> {
        Self::start(DataDir::open(home)?, network).await
    }

    async fn start(dir: DataDir, network: &NetworkFile) -> Result<Self, Failure> {
        let lock = dir.lock("demo")?;
        let settings = NodeSettings { mdns: false, ..NodeSettings::client() };
        let node = Node::start(dir, network.clone(), settings).await?;
        node.meeting(MEET).await?;
        Ok(Self { service: NodeService::new(node, false), _lock: lock })
    }

    /// Runs a verb; its summary. Anything but full success ends the demo.
    pub(super) async fn run(
        &self,
        verb: Verb,
        screen: &DemoScreen,
        cancel: &CancellationToken,
    ) -> Result<Value, Failure> {
        let (events, mut happened) = mpsc::channel(256);
        let call = Call { verb, passphrase: None, input: None, output: None, events, cancel: cancel.clone() };
        let show = async {
            let mut renderer = screen.renderer();
            let mut last = Value::Null;
            while let Some(event) = happened.recv().await {
                renderer.show(&event);
                if let Event::Summary { summary, .. } = event {
                    last = summary;
                }
            }
            renderer.finish();
            last
        };
        let (result, summary) = tokio::join!(self.service.run(call), show);
        match result?.code {
            // Unreadable sources are named on the way; with a path of the user's that is no reason to stop.
            ExitCode::Success | ExitCode::Partial => Ok(summary),
            code => Err(Failure::new(code, "DEMO", format!("a step ended with {code:?}"))),
        }
    }

    /// Ends the client.
    pub(super) async fn close(self) {
        self.service.node().close().await;
    }
}
