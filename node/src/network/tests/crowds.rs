//! Many peers where few should be: connections from one place, adverts of a crowd, gossip that is not what it says.

use super::super::{keeper::memory::MemoryKeeper, *};
use super::nodes::{DEADLINE, TCP, client, holder, listening};

/// Loopback's own limit stands in for a /24's: the behaviour is the same, the addresses are what a test has.
#[tokio::test(flavor = "multi_thread")]
async fn one_place_cannot_take_all_connections() {
    let mut config = holder(200, TCP, &Arc::new(MemoryKeeper::default()), &[]);
    config.inbound.near = 2;
    let node = start(config).await.expect("starts");
    let door = listening(&node).await;
    let first = start(client(201, &door)).await.expect("starts");
    let second = start(client(202, &door)).await.expect("starts");
    for admitted in [&first, &second] {
        admitted.wait_ready(0, DEADLINE).await.expect("one of the first two");
    }
    let third = start(client(203, &door)).await.expect("starts");
    let refused = third.wait_ready(0, Duration::from_secs(3)).await;
    assert!(refused.is_err(), "NET-3: {refused:?}");
    assert_eq!(node.readiness().connected, 2);

    first.shutdown().await;
    third.wait_ready(0, DEADLINE).await.expect("a place is free again");
}
