//! Garbage, bytes without end and bytes that drip, at the port itself and on every protocol behind it: the node lives, its
//! memory stays where it was, and it serves.

use std::{
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use futures::{AsyncReadExt, AsyncWriteExt};

use crate::{
    harness::{EVENT_TIME_MAX, Lab, Owner},
    hostile::Door,
    separation::{block_on, network_of},
    tree,
};

/// What a node may grow by, with everything that its allocator keeps: far below what was sent to it.
const GROWTH_MAX: u64 = 48 << 20;
/// Sent on each protocol by those who never end.
const FLOOD: usize = 16 << 20;

/// What a node has for itself. Pages of its executable that it touches for the first time are nobody's growth.
fn memory_of(lab: &Lab, node: usize) -> u64 {
    let pid = lab.status()[node]["pid"].as_u64().expect("up");
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("it lives");
    let line = status.lines().find(|l| l.starts_with("RssAnon")).expect("a size");
    line.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).expect("a number") << 10
}

#[track_caller]
fn assert_well(lab: &Lab, node: usize, before: u64) {
    let grown = memory_of(lab, node).saturating_sub(before);
    println!("node {node}: {} MiB, grown by {}", before >> 20, grown >> 20);
    assert!(grown <= GROWTH_MAX, "node {node} grew by {} MiB", grown >> 20);
    let log = fs::read_to_string(lab.node_dir(node).join("log")).unwrap();
    assert!(!log.contains("panicked"), "{log}");
    let owner = Owner::init(lab);
    owner.backup_stream("after", b"still serving").stored();
    assert_eq!(owner.dump("latest", "after").ok().stdout, b"still serving");
}

/// In a lab of its own, so that nobody else's work is taken for growth.
#[test]
fn junk_at_the_port_and_on_any_protocol_harms_nobody() {
    let lab = Lab::up(10);
    // What every node needs once: buffers of its allocator, the store, connections to all.
    let owner = Owner::init(&lab);
    owner.backup_stream("before", &tree::noise("warm", 4 << 20)).stored();
    at_the_port(&lab);
    on_any_protocol(&lab);
}

fn at_the_port(lab: &Lab) {
    const NODE: usize = 5;
    let address = lab.tcp_address(NODE);
    let port: u16 = address.split('/').nth(4).and_then(|p| p.parse().ok()).expect("/ip4/A/tcp/PORT");
    let before = memory_of(lab, NODE);
    let noise = tree::noise("junk", 1 << 20);
    let openings: [&[u8]; 5] = [
        b"GET / HTTP/1.1\r\nHost: cairn\r\n\r\n",
        &noise,
        b"\x13/multistream/1.0.0\n\xff\xff\xff\xff\x7f",
        b"\x16\x03\x01",
        b"",
    ];
    let mut open = Vec::new();
    for turn in 0..20 {
        let mut stream = TcpStream::connect(SocketAddr::from(([127, 0, 0, 1], port))).expect("connects");
        stream.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        stream.set_write_timeout(Some(Duration::from_secs(1))).unwrap();
        // The node may close in the middle of it.
        let _ = stream.write_all(openings[turn % openings.len()]);
        open.push(stream);
    }
    // One byte each from time to time, until the node has shut out every one of them.
    let deadline = Instant::now() + EVENT_TIME_MAX;
    while !open.is_empty() {
        assert!(Instant::now() < deadline, "{} of them are still let in", open.len());
        open.retain_mut(|stream| {
            let dripped = stream.write(b"\x00");
            let mut answer = [0; 512];
            match stream.read(&mut answer) {
                Ok(0) => false,
                Ok(_) => dripped.is_ok(),
                Err(e) => {
                    dripped.is_ok() && matches!(e.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut)
                }
            }
        });
    }
    assert_well(lab, NODE, before);
}

/// Every protocol that a stranger's connection can ask for.
fn protocols(network: &cairn_proto::network_file::NetworkFile) -> Vec<String> {
    let id: String = network.id.to_string().chars().take(16).collect();
    let own = ["shard", "control", "kad"].map(|part| format!("/cairn/{id}/{part}/{}", network.protocol));
    let stock = [
        "/ipfs/ping/1.0.0",
        "/ipfs/id/1.0.0",
        "/ipfs/id/push/1.0.0",
        "/libp2p/circuit/relay/0.2.0/hop",
        "/libp2p/circuit/relay/0.2.0/stop",
        "/libp2p/dcutr",
        "/libp2p/autonat/2/dial-request",
        "/libp2p/autonat/2/dial-back",
    ];
    let gossip = format!("/cairn/{id}/gossip/1.1.0");
    own.into_iter().chain([gossip]).chain(stock.map(str::to_owned)).collect()
}

fn on_any_protocol(lab: &Lab) {
    // The bootstrap: it speaks them all.
    const NODE: usize = 0;
    let (network, address) = (network_of(lab), lab.tcp_address(NODE));
    let before = memory_of(lab, NODE);
    let spoken = block_on(async {
        let mut spoken = Vec::new();
        for protocol in protocols(&network) {
            // Noise, a length that is a lie, zeros, and frames without end.
            let noise = tree::noise(&protocol, 1 << 20);
            for (case, opening) in [&noise[..], b"\xff\xff\xff\xff\x0f", &[0; 4096]].into_iter().enumerate() {
                let door = Door::connect(&network, &address).await;
                let Some(mut stream) = door.stream(&protocol).await else { break };
                if case == 0 {
                    spoken.push(protocol.clone());
                }
                let flood = async {
                    if stream.write_all(opening).await.is_err() {
                        return;
                    }
                    let mut sent = 0;
                    while sent < FLOOD && stream.write_all(&noise).await.is_ok() {
                        sent += noise.len();
                    }
                };
                // It is refused, taken and thrown away, or left in the way: two seconds of each are enough.
                let _ = tokio::time::timeout(Duration::from_secs(2), flood).await;
                let mut rest = vec![0; 4096];
                let _ = tokio::time::timeout(Duration::from_millis(200), stream.read(&mut rest)).await;
            }
        }
        spoken
    });
    println!("spoken: {spoken:?}");
    for part in ["/shard/", "/control/", "/kad/", "/ping/", "/id/", "/gossip/", "/hop"] {
        assert!(spoken.iter().any(|p| p.contains(part)), "{part} was not reached: {spoken:?}");
    }
    assert_well(lab, NODE, before);
}
