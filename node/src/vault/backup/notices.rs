//! What the user should know after a backup, though nothing failed.

use std::collections::BTreeMap;

use tokio::sync::mpsc;

use crate::{
    failure::Failure,
    ops::Event,
    vault::{
        failures,
        fallback::{self, Usage},
        leaning::Storage,
        session::Session,
        stewards::Watched,
    },
};

/// Tells what lies at fallback storage, and what is wrong with it that was not told at the beginning.
pub(super) async fn tell_leaning(storage: &Storage, leans: &BTreeMap<String, Usage>, events: &mpsc::Sender<Event>) {
    if let Some(text) = fallback::notice(leans) {
        let _ = events.send(Event::Notice { id: "FALLBACK_IN_USE".to_owned(), text }).await;
    }
    for (name, why) in storage.news() {
        let text = format!("fallback storage {name:?} failed: {why}");
        let _ = events.send(Event::Notice { id: "FALLBACK_UNUSABLE".to_owned(), text }).await;
    }
}

/// Tells it; how many lost stripes are still needed. `lost` is that, when a commit counted them.
pub(super) async fn tell(
    session: &Session,
    watched: &Watched,
    unreadable: usize,
    lost: Option<usize>,
    events: &mpsc::Sender<Event>,
) -> Result<usize, Failure> {
    let catalogue = &session.catalogue;
    let notice = |id: &str, text: String| events.send(Event::Notice { id: id.to_owned(), text });
    if let Some(text) = watched.notice() {
        let _ = notice("FEW_STEWARDS", text).await;
    }
    for (id, text) in session.groups.relaxations() {
        let _ = notice(id, text).await;
    }
    if unreadable > 0 {
        let text = format!(
            "{unreadable} stripes cannot be read now: too few of their holders are there. `cairn check` names what lies in \
             them; the backup after it stores anew what is still here"
        );
        let _ = notice("STRIPES_UNREADABLE", text).await;
    }
    let lost = match lost {
        Some(count) => count,
        None => catalogue.lost().map_err(failures::catalogue)?.len(),
    };
    if lost > 0 {
        let text = format!("{lost} lost stripes are still needed by older snapshots; `cairn check` names the files");
        let _ = notice("STRIPES_LOST", text).await;
    }
    let unread = catalogue.unread_segments().map_err(failures::catalogue)?.len();
    if unread > 0 {
        let text = format!(
            "{unread} parts of the index could not be read when this vault was recovered: older snapshots may lack files. Run \
             `cairn recover` again when more holders are there"
        );
        let _ = notice("INDEX_LOST", text).await;
    }
    Ok(lost)
}
