//! stub
use std::sync::Arc;
use std::ffi::OsString;
use tokio_util::sync::CancellationToken;
use crate::vault::stream_input::StreamInput;
use cairn_core::peer_view::PeerView;
use cairn_proto::network_file::NetworkFile;
use crate::{api::NodeStatus, data_dir::DataDir, failure::{ExitCode, Failure}, ops::SecretText, overlay::Overlay};
use super::NodeSettings;
/// n
pub struct Node { dir: DataDir }
fn nb<T>() -> Result<T, Failure> { Err(Failure::new(ExitCode::Failed, "NOT_BUILT", "not built yet")) }
impl Node {
    /// n
    pub async fn start(_dir: DataDir, _network: NetworkFile, _settings: NodeSettings) -> Result<Self, Failure> { nb() }
    /// n
    pub async fn store_only(dir: DataDir) -> Result<Self, Failure> { Ok(Self{dir}) }
    /// n
    pub fn dir(&self) -> &DataDir { &self.dir }
    /// n
    pub fn overlay(&self) -> Result<Arc<dyn Overlay>, Failure> { nb() }
    /// n
    pub fn addresses(&self) -> Vec<String> { vec![] }
    /// n
    pub async fn close(&self) {}
    /// n
    pub async fn shards(&self) -> Result<Vec<serde_json::Value>, Failure> { nb() }
    /// n
    pub fn status(&self, _daemon: bool, _peers: &[PeerView]) -> Result<NodeStatus, Failure> { nb() }
}
/// n
pub async fn make_vault(_dir: &DataDir, _p: Option<SecretText>) -> Result<SecretText, Failure> { nb() }
/// n
pub fn command_input(_c: &[OsString], _cancel: CancellationToken) -> Result<StreamInput, Failure> { nb() }
