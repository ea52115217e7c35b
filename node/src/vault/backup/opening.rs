//! How a backup begins: what the vault promises, who is there, which groups are left open.

use std::{sync::Arc, time::Duration};

use cairn_core::{
    durability::{UnknownSla, repairs::RepairFigures},
    keys::KeyMode,
    placement::{Owner, PlacementError, PlacementPolicy, PolicyNotice},
};
use cairn_proto::Timestamp;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::{
    failure::{ExitCode, Failure},
    ops::{BackupArgs, Event},
    overlay::Overlay,
    vault::{
        Vault,
        catalogue::{Counters, Meta},
        failures,
        groups::{Groups, PlaceError, Use},
        leaning::Storage,
        promise::{self, Kept, Promise},
        session::{Session, StoreError},
    },
};

/// How long holders are asked to keep shards: 13 months, as long as a steward's mandate.
const LEASE_MS: u64 = 396 * 24 * 3600 * 1000;
/// Looks at a network that seems too small, before that is believed: a node that just came still hears of peers.
const LOOKS: usize = 4;
const LOOK_AGAIN: Duration = Duration::from_millis(700);

/// What the vault promises from this run on: what is named now, or what was named once; `none` takes it back.
pub(super) fn promised(vault: &Vault, args: &BackupArgs) -> Result<Option<Promise>, Failure> {
    let before = Promise::of(&vault.catalogue).map_err(failures::catalogue)?;
    let Some(named) = args.sla.as_deref() else { return Ok(before) };
    if named.eq_ignore_ascii_case(promise::NONE) {
        if !args.dry_run {
            vault.catalogue.set_meta(Meta::Promise, None).map_err(failures::catalogue)?;
        }
        return Ok(None);
    }
    let sla = named.parse().map_err(|e: UnknownSla| {
        Failure::new(ExitCode::Usage, "SLA", format!("{named:?} is no promise that a vault can make"))
            .caused_by(&e)
            .with_hint("none takes a promise back")
    })?;
    Ok(Some(before.filter(|before| before.sla == sla).unwrap_or(Promise::new(sla))))
}

/// Knows the peers, takes over the groups that are left open.
pub(in crate::vault) async fn open_session(
    vault: &Vault,
    (overlay, storage): (Arc<dyn Overlay>, &Storage),
    now: Timestamp,
    counters: Counters,
    promise: Option<(Promise, RepairFigures)>,
    events: &mpsc::Sender<Event>,
    cancel: &CancellationToken,
) -> Result<Session, Failure> {
    let mut peers = overlay.peers(true).await.map_err(failures::overlay)?;
    let (stripes, highest_group) = vault.catalogue.highest_numbers().map_err(failures::catalogue)?;
    let crashed = vault.catalogue.meta(Meta::Running).map_err(failures::catalogue)?.is_some();
    let mut left = Vec::new();
    for row in vault.catalogue.groups() {
        let mut row = row.map_err(failures::catalogue)?;
        match (row.sealed, crashed) {
            (true, _) => {}
            (false, false) => left.push(row),
            (false, true) => {
                // Nobody knows which ordinals a run gave out that did not end: its groups take no more.
                row.sealed = true;
                vault.catalogue.set_group(&row).map_err(failures::catalogue)?;
            }
        }
    }
    let owner = Owner { peer: overlay.me(), domain: overlay.my_domain() };
    let next_group = counters.next_group.max(highest_group + 1);
    let mut looks = LOOKS;
    let (groups, promised) = loop {
        let promised = promise.map(|(promise, repairs)| promise.follow(&peers, stripes, &repairs, now));
        let policy = promised.as_ref().map_or_else(|| PlacementPolicy::for_network(&peers), |kept| kept.policy(&peers));
        let (keys, owner) = (vault.keys.clone(), owner.clone());
        // Peers of which we have not heard yet come before fallback storage.
        let leaning = Use { stand: storage.stand(), now: looks == 1 };
        let groups = Groups::new(keys, owner, peers.clone(), now, left.clone(), next_group, policy, leaning);
        groups.vet(vault.catalogue.given(now).map_err(failures::catalogue)?, overlay.as_ref());
        match groups.ready() {
            Ok(()) => {
                groups.may_lean();
                break (groups, promised);
            }
            Err(PlaceError::Placement(PlacementError::TooFewPeers { .. })) if looks > 1 => {
                looks -= 1;
                tokio::select! {
                    () = cancel.cancelled() => return Err(failures::interrupted()),
                    () = tokio::time::sleep(LOOK_AGAIN) => {}
                }
                peers = overlay.peers(true).await.map_err(failures::overlay)?;
            }
            Err(e) => return Err(failures::store(&StoreError::Place(e))),
        }
    };
    if let Some((id, text)) = promised.as_ref().and_then(Kept::notice) {
        let _ = events.send(Event::Notice { id: id.to_owned(), text }).await;
    }
    if let Some(notice) = groups.policy().notice {
        let id = match notice {
            PolicyNotice::LowPeer { .. } => "LOW_PEER_MODE",
            PolicyNotice::SingleReplica { .. } => "SINGLE_REPLICA",
        };
        let _ = events.send(Event::Notice { id: id.to_owned(), text: notice.to_string() }).await;
    }
    groups.learn_formers(vault.catalogue.formers().map_err(failures::catalogue)?);
    let epoch = vault.epochs()?.last().map_or(1, |e| e.number);
    let epoch = Arc::new(vault.keys.epoch(KeyMode::Paper, epoch));
    let lease_until = now.plus_ms(LEASE_MS);
    Ok(Session::new(vault.keys.clone(), epoch, vault.catalogue.clone(), overlay, groups, promised, lease_until))
}
