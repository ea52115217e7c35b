//! Heads that outlive those who brought them.

use super::super::{
    keeper::{ShardKeeper as _, memory::MemoryKeeper},
    *,
};
use super::nodes::{A_MOMENT, DEADLINE, TCP, holder, listening};
use cairn_proto::{VaultKey, message::HeadRecord};
use ed25519_dalek::SigningKey;

#[tokio::test(flavor = "multi_thread")]
async fn a_head_comes_to_nodes_that_join_later() {
    let old = Arc::new(MemoryKeeper::default());
    let key = SigningKey::from_bytes(&[78; 32]);
    let vault = VaultKey::from_bytes(key.verifying_key().to_bytes());
    let head = HeadRecord { vault, generation: 0, sequence: 3, sealed: vec![9; 200] }.seal(&key);
    old.keep_head(vault, head.clone()).await.expect("kept");
    let mut config = holder(71, TCP, &old, &[]);
    config.limits.replicate_every = Duration::from_millis(500);
    let first = start(config).await.expect("starts");
    let new = Arc::new(MemoryKeeper::default());
    let _second = start(holder(72, TCP, &new, &listening(&first).await)).await.expect("starts");
    let wait = async {
        while new.find_head(vault).await.expect("reads").as_ref() != Some(&head) {
            tokio::time::sleep(A_MOMENT).await;
        }
    };
    tokio::time::timeout(DEADLINE, wait).await.expect("its owner did nothing");
}
