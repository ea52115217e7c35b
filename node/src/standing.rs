//! What this node thinks of its peers: who sees something says it here ([`ports::Witness`]), who places shards asks here.

pub mod ports;
