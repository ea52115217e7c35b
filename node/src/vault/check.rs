//! Is everything there, and, with `--read-data`, is it right?
//!
//! Asks every holder which shards it has, counts each stripe's living slots, and names the files that a lost stripe
//! takes with it. Changes nothing but the note of which stripes are lost.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use cairn_proto::{
    PeerKey, Slot,
    index::{StripeNo, StripeRow},
    manifest::GroupRow,
    tree::ContentRef,
    wire::Priority,
};
use futures::StreamExt as _;
use serde_json::json;
use tokio::sync::mpsc;

use super::{
    Vault, browse,
    content_ids::ContentIds,
    failures,
    groups::access_of,
    reader::{ReadError, Reader},
    tree_walk::{TreeStep, TreeWalk},
};
use crate::{
    failure::{ExitCode, Failure},
    ops::{CheckArgs, Event, ItemError, Outcome, Progress, VerbResult},
    overlay::{Overlay, TransferError},
};

/// Holders asked at once.
const ASKED: usize = 32;
/// Stripes read at once with `--read-data`: 4 x 8 shards.
const READ: usize = 4;

/// What holders say: group -> slot -> ordinals that at least one of them has.
type Holdings = BTreeMap<(u32, u8), [u8; 32]>;

/// Which stripes to read.
#[derive(Clone, Copy, Debug)]
enum Subset {
    None,
    All,
    /// This share, in thousandths, chosen by the stripe's number and the hour.
    Share(u64),
    /// Part `0` of `1`.
    Part(u64, u64),
}

impl Subset {
    fn parse(args: &CheckArgs) -> Result<Self, Failure> {
        let bad = || Failure::new(ExitCode::Usage, "USAGE", "write the subset as 10% or 1/5");
        let Some(text) = &args.read_data_subset else {
            return Ok(if args.read_data { Self::All } else { Self::None });
        };
        if let Some(percent) = text.strip_suffix('%') {
            let percent: f64 = percent.trim().parse().map_err(|_| bad())?;
            if !(0.0..=100.0).contains(&percent) {
                return Err(bad());
            }
            return Ok(Self::Share((percent * 10.0) as u64));
        }
        let (part, of) = text.split_once('/').ok_or_else(bad)?;
        match (part.trim().parse(), of.trim().parse()) {
            (Ok(part), Ok(of)) if part >= 1 && part <= of => Ok(Self::Part(part, of)),
            _ => Err(bad()),
        }
    }

    fn wants(self, no: StripeNo, salt: u64) -> bool {
        match self {
            Self::None => false,
            Self::All => true,
            Self::Share(share) => {
                let hash = blake3::hash(&[no.0.to_le_bytes(), salt.to_le_bytes()].concat());
                u64::from(u16::from_le_bytes([hash.as_bytes()[0], hash.as_bytes()[1]])) * 1000 < share * 65_536
            }
            Self::Part(part, of) => no.0 % of == part - 1,
        }
    }
}

/// Runs a check.
pub(super) async fn check(
    vault: &Vault,
    overlay: Arc<dyn Overlay>,
    args: CheckArgs,
    events: &mpsc::Sender<Event>,
) -> VerbResult {
    let started = Instant::now();
    let subset = Subset::parse(&args)?;
    let rows: Vec<GroupRow> = vault.catalogue.groups().collect::<Result<_, _>>().map_err(failures::catalogue)?;
    let (holdings, silent) = ask_all(vault, &overlay, &rows).await?;
    let reader = Reader::new(vault.keys.clone(), overlay, Some(vault.catalogue.clone()));
    let salt = super::now().0 / 3_600_000;

    let (mut stripes, mut missing, mut lost, mut damaged) = (0u64, 0u64, BTreeSet::new(), 0u64);
    let mut to_read = Vec::new();
    for row in vault.catalogue.stripes() {
        let row = row.map_err(failures::catalogue)?;
        stripes += 1;
        let there = living_slots(&row, &holdings);
        let lacking = row.present().count() - there;
        missing += lacking as u64;
        if there < usize::from(row.used) {
            lost.insert(row.no);
        } else {
            damaged += u64::from(lacking > 0);
            if subset.wants(row.no, salt) {
                to_read.push(row.no);
            }
        }
    }
    let read_count = to_read.len() as u64;
    let wrong = AtomicU64::new(0);
    let mut reads =
        futures::stream::iter(to_read.into_iter().map(|no| read_all(&reader, no, &wrong))).buffer_unordered(READ);
    let mut done = 0u64;
    while let Some((no, whole)) = reads.next().await {
        done += 1;
        match whole {
            Ok(true) => {}
            Ok(false) => damaged += 1,
            Err(e) if e.is_loss() => {
                lost.insert(no);
            }
            Err(e) => return Err(failures::read(&e)),
        }
        let progress = Progress {
            phase: "check".to_owned(),
            percent_done: Some(done as f64 / read_count.max(1) as f64),
            bytes_sent: reader.bytes_fetched(),
            elapsed_ms: started.elapsed().as_millis() as u64,
            ..Progress::default()
        };
        let _ = events.try_send(Event::Status(progress));
    }
    drop(reads);
    // The next backup stores anew what lies in them. When nobody answered at all, it is we who are cut off.
    if !holdings.is_empty() {
        vault.catalogue.set_lost(&lost).map_err(failures::catalogue)?;
    }
    let files_lost = if lost.is_empty() { 0 } else { name_losses(vault, &reader, &lost, events).await? };
    let summary = json!({
        "num_errors": lost.len() as u64 + damaged,
        "groups": rows.len(),
        "stripes": stripes,
        "stripes_read": read_count,
        "stripes_below_target": damaged,
        "stripes_lost": lost.len(),
        "shards_missing": missing,
        "shards_wrong": wrong.load(Ordering::Relaxed),
        "holders_unreachable": silent.len(),
        "files_lost": files_lost,
        "bytes_fetched": reader.bytes_fetched(),
        "total_duration": started.elapsed().as_secs_f64(),
    });
    let _ = events.send(Event::Summary { verb: "check".to_owned(), summary }).await;
    let code = match () {
        () if !lost.is_empty() => ExitCode::Lost,
        () if damaged > 0 => ExitCode::Damage,
        () => ExitCode::Success,
    };
    Ok(Outcome { code })
}

/// Asks every holder of every group what it has.
async fn ask_all(
    vault: &Vault,
    overlay: &Arc<dyn Overlay>,
    rows: &[GroupRow],
) -> Result<(Holdings, BTreeSet<PeerKey>), Failure> {
    let mut questions = Vec::new();
    for row in rows {
        let access = access_of(&vault.keys, row).map_err(|e| failures::bug("GROUP", &e))?;
        let access = Arc::new(access);
        for (slot, holders) in row.code.each_slot().zip(&row.holders) {
            questions.extend(holders.iter().map(|holder| (row.number, slot, *holder, access.clone())));
        }
    }
    let (mut holdings, mut silent) = (Holdings::new(), BTreeSet::new());
    let mut answers = futures::stream::iter(questions.into_iter().map(|(number, slot, holder, access)| async move {
        (number, slot, holder, overlay.has_shards(holder, access, slot).await)
    }))
    .buffer_unordered(ASKED);
    while let Some((number, slot, holder, answer)) = answers.next().await {
        match answer {
            Ok(bits) => {
                let known = holdings.entry((number, slot.as_u8())).or_insert([0; 32]);
                known.iter_mut().zip(bits).for_each(|(k, b)| *k |= b);
            }
            Err(TransferError::ShuttingDown) => {
                return Err(failures::overlay(crate::overlay::OverlayError::ShuttingDown));
            }
            Err(_) => {
                silent.insert(holder);
            }
        }
    }
    Ok((holdings, silent))
}

fn living_slots(row: &StripeRow, holdings: &Holdings) -> usize {
    let has = |slot: Slot| {
        let bits = holdings.get(&(row.group, slot.as_u8()));
        bits.is_some_and(|b| b[usize::from(row.ordinal / 8)] >> (row.ordinal % 8) & 1 == 1)
    };
    row.present().filter(|(slot, _)| has(*slot)).count()
}

/// Fetches every slot of a stripe: whether all are there and right. Fewer than it takes is a loss.
async fn read_all(reader: &Reader, no: StripeNo, wrong: &AtomicU64) -> (StripeNo, Result<bool, ReadError>) {
    let read = async {
        let source = reader.source(no)?;
        let all = source.row.present().count();
        let before = reader.wrong_shards();
        let shards = reader.fetch_some(&source, all, Priority::Low).await;
        wrong.fetch_add(reader.wrong_shards().saturating_sub(before), Ordering::Relaxed);
        let good = shards.iter().flatten().count();
        let needed = usize::from(source.row.used);
        if good < needed { Err(ReadError::Lost { no: no.0, good, needed }) } else { Ok(good == all) }
    };
    (no, read.await)
}

/// Names the entries whose content lies in a lost stripe, as far as the trees themselves can be read.
async fn name_losses(
    vault: &Vault,
    reader: &Reader,
    lost: &BTreeSet<StripeNo>,
    events: &mpsc::Sender<Event>,
) -> Result<u64, Failure> {
    let mut count = 0;
    for (id, record) in browse::all(vault)? {
        let mut walk = TreeWalk::new(reader, record.root);
        while let Some(step) = walk.next().await {
            let (name, error) = match step {
                TreeStep::Leaf(node) => match touches(vault, reader, &node.content, lost).await {
                    true => (node.name, "lies in a lost stripe".to_owned()),
                    false => continue,
                },
                TreeStep::Failed(e) => (Vec::new(), e.to_string()),
                TreeStep::Enter(_) | TreeStep::Leave => continue,
            };
            count += 1;
            let path = String::from_utf8_lossy(&walk.path_of(&name)).into_owned();
            let item = ItemError { item: format!("{}:{path}", id.short()), during: "fetch".to_owned(), message: error };
            let _ = events.send(Event::Error(item)).await;
        }
    }
    Ok(count)
}

async fn touches(vault: &Vault, reader: &Reader, content: &ContentRef, lost: &BTreeSet<StripeNo>) -> bool {
    let mut ids = ContentIds::new(content);
    while let Some(id) = ids.next(reader).await {
        let whole = id.ok().and_then(|id| vault.catalogue.find_chunk(&id).ok()?).is_some_and(|run| {
            !lost.contains(&run.place.stripe) && run.place.next.is_none_or(|no| !lost.contains(&no))
        });
        if !whole {
            return true;
        }
    }
    false
}
