//! Is everything there, and, with `--read-data`, is it right?
//!
//! Asks every holder which shards it has, counts each stripe's living slots, and names the files that a lost stripe
//! takes with it. Tells what the stewards did while the owner was away. Changes nothing but the notes of which stripes are lost and which lack slots, for the next backup to fill, and
//! of who is silent; and forgets lost stripes that nothing needs any more.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use cairn_core::placement::PlacementPolicy;
use cairn_proto::{ByteSize, SHARD_SIZE, index::StripeNo, manifest::GroupRow, tree::ContentRef, wire::Priority};
use futures::StreamExt as _;
use serde_json::json;
use tokio::sync::mpsc;

use super::{
    Vault, browse,
    catalogue::{CatalogueError, Meta},
    clumps,
    content_ids::ContentIds,
    failures, fallback,
    holdings::{self, Holdings},
    promise::Promise,
    reader::{ReadError, Reader},
    shortfall::READ_WRONG,
    told,
    tree_walk::{TreeStep, TreeWalk},
};
use crate::{
    failure::{ExitCode, Failure},
    ops::{CheckArgs, Event, ItemError, Outcome, Progress, VerbResult},
    overlay::Overlay,
};

/// Stripes read at once with `--read-data`: 4 x 8 shards.
const READ: usize = 4;

/// Which stripes to read.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Subset {
    None,
    All,
    /// This percentage of them, at least one.
    Percent(f64),
    /// So many that their data has this size, at least one.
    Size(u64),
    /// Part `0` of `1`: always the same, so that `1/7` .. `7/7` on seven days read everything.
    Part(u64, u64),
}

impl Subset {
    fn parse(args: &CheckArgs) -> Result<Self, Failure> {
        let Some(text) = args.read_data_subset.as_deref().map(str::trim) else {
            return Ok(if args.read_data { Self::All } else { Self::None });
        };
        let bad = || {
            Failure::new(ExitCode::Usage, "USAGE", format!("{text:?} is no subset"))
                .with_hint("write 10% (over 0, up to 100), 1/5 (the first of five parts) or a size as 500MB")
        };
        if let Some(percent) = text.strip_suffix('%') {
            let percent: f64 = percent.trim().parse().map_err(|_| bad())?;
            return if percent > 0.0 && percent <= 100.0 { Ok(Self::Percent(percent)) } else { Err(bad()) };
        }
        let Some((part, of)) = text.split_once('/') else {
            return match text.parse::<ByteSize>() {
                Ok(ByteSize(size @ 1..)) => Ok(Self::Size(size)),
                _ => Err(bad()),
            };
        };
        match (part.trim().parse(), of.trim().parse()) {
            (Ok(part), Ok(of)) if part >= 1 && part <= of => Ok(Self::Part(part, of)),
            _ => Err(bad()),
        }
    }

    /// The stripes to read of these, each with its bytes of data. Another salt chooses others.
    fn choose(self, mut stripes: Vec<(StripeNo, u64)>, salt: u64) -> Vec<StripeNo> {
        let count = stripes.len();
        match self {
            Self::None => stripes.clear(),
            Self::All => {}
            Self::Part(part, of) => stripes.retain(|(no, _)| no.0 % of == part - 1),
            Self::Percent(_) | Self::Size(_) => {
                let key = |no: &StripeNo| *blake3::hash(&[no.0.to_le_bytes(), salt.to_le_bytes()].concat()).as_bytes();
                stripes.sort_by_cached_key(|(no, _)| key(no));
                let mut sum = 0;
                match self {
                    Self::Percent(percent) => stripes.truncate((count as f64 * percent / 100.0).ceil() as usize),
                    Self::Size(size) => stripes.retain(|(_, bytes)| (sum < size, sum += bytes).0),
                    Self::None | Self::All | Self::Part(..) => {}
                }
                stripes.sort_unstable_by_key(|(no, _)| no.0);
            }
        }
        stripes.into_iter().map(|(no, _)| no).collect()
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
    // A backup beside us may record stripes about which nobody was asked: those are the next check's.
    let known: BTreeSet<StripeNo> = vault
        .catalogue
        .stripes()
        .map(|row| row.map(|row| row.no))
        .collect::<Result<_, _>>()
        .map_err(failures::catalogue)?;
    let mut holdings = Holdings::ask(&vault.keys, &overlay, &rows).await?;
    // What a slot was given to is known from its row; that there may be two at all, from the network as it is.
    let promised = Promise::of(&vault.catalogue).map_err(failures::catalogue)?.map_or(1, |promise| promise.replicas());
    let peers = overlay.peers(false).await.unwrap_or_default();
    let replicas = PlacementPolicy::for_network(&peers).replicas;
    let replicas = replicas.max(promised).max(1);
    let gone = match holdings.answered() {
        true => holdings::note_silence(&vault.catalogue, &holdings, &holdings::named(&rows), super::now()),
        false => Ok(BTreeSet::new()),
    }
    .map_err(failures::catalogue)?;
    let reader = Reader::new(vault.keys.clone(), overlay.clone(), Some(vault.catalogue.clone()));
    let happenings = if holdings.answered() {
        let mut short: BTreeSet<u32> =
            rows.iter().map(|row| row.number).filter(|group| holdings.has_silent(*group)).collect();
        // What stewards copied elsewhere for it, only they know.
        short.extend(clumps::of(&rows, &peers, &gone).keys());
        for row in vault.catalogue.stripes() {
            let row = row.map_err(failures::catalogue)?;
            if !short.contains(&row.group) && !holdings.short(&row, replicas.into(), &gone).is_empty() {
                short.insert(row.group);
            }
        }
        told::ask(vault, reader.learner(), &overlay, &rows, &short, &mut holdings, events).await?
    } else {
        0
    };
    let rows_now: Vec<GroupRow> = vault.catalogue.groups().collect::<Result<_, _>>().map_err(failures::catalogue)?;
    let clumped = clumps::of(&rows_now, &peers, &gone);
    if let Some(text) = clumps::told(&clumped) {
        let _ = events.send(Event::Notice { id: clumps::NOTICE.to_owned(), text }).await;
    }
    let salt = super::now().0 / 3_600_000;

    let (mut stripes, mut missing, mut lost, mut damaged) = (0u64, 0u64, BTreeSet::new(), 0u64);
    let mut to_read = Vec::new();
    for row in vault.catalogue.stripes() {
        let row = row.map_err(failures::catalogue)?;
        if !known.contains(&row.no) {
            continue;
        }
        stripes += 1;
        let absent = holdings.absent(&row);
        missing += absent.len() as u64;
        if row.present().count() - absent.len() < usize::from(row.used) {
            lost.insert(row.no);
        } else {
            let short = holdings.short(&row, replicas.into(), &gone);
            damaged += u64::from(!short.is_empty());
            if holdings.answered() {
                let news = |before: &mut BTreeSet<u8>| {
                    let known = |slot: &u8| before.contains(&(slot | READ_WRONG));
                    let more: Vec<u8> = short.iter().copied().filter(|slot| !known(slot)).collect();
                    before.extend(more);
                };
                note(vault, row.no, news).map_err(failures::catalogue)?;
            }
            if subset != Subset::None {
                to_read.push((row.no, u64::from(row.used) * SHARD_SIZE as u64));
            }
        }
    }
    let to_read = subset.choose(to_read, salt);
    let read_count = to_read.len() as u64;
    let wrong = AtomicU64::new(0);
    let mut reads =
        futures::stream::iter(to_read.into_iter().map(|no| read_all(&reader, no, &wrong))).buffer_unordered(READ);
    let mut done = 0u64;
    while let Some((no, whole)) = reads.next().await {
        done += 1;
        match whole {
            Ok(bad) => {
                damaged += u64::from(!bad.is_empty());
                let news = |before: &mut BTreeSet<u8>| {
                    before.retain(|byte| byte & READ_WRONG == 0 && !bad.contains(byte));
                    before.extend(bad.iter().map(|slot| slot | READ_WRONG));
                };
                note(vault, no, news).map_err(failures::catalogue)?;
            }
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
    // When nobody answered at all, it is we who are cut off.
    if holdings.answered() {
        // The next backup stores anew what lies in them.
        vault.catalogue.set_lost(&lost).map_err(failures::catalogue)?;
        // While a backup runs, it does not yet stand what needs a new stripe.
        if vault.catalogue.meta(Meta::Running).map_err(failures::catalogue)?.is_none() {
            lost = vault.catalogue.retire_lost().map_err(failures::catalogue)?;
        }
    }
    let unread = vault.catalogue.unread_segments().map_err(failures::catalogue)?.len();
    let files_lost = if lost.is_empty() { 0 } else { name_losses(vault, &reader, &lost, events).await? };
    let leans = fallback::usage(&vault.catalogue, overlay.as_ref()).map_err(failures::catalogue)?;
    if let Some(text) = fallback::notice(&leans) {
        let _ = events.send(Event::Notice { id: "FALLBACK_IN_USE".to_owned(), text }).await;
    }
    let summary = json!({
        "fallback": fallback::told(&leans),
        "num_errors": (lost.len() + unread) as u64 + damaged,
        "groups": rows.len(),
        "groups_too_close": clumped.len(),
        "stripes": stripes,
        "stripes_read": read_count,
        "stripes_below_target": damaged,
        "stripes_lost": lost.len(),
        "shards_missing": missing,
        "shards_wrong": wrong.load(Ordering::Relaxed),
        "index_segments_lost": unread,
        "holders_unreachable": holdings.silent.len(),
        "files_lost": files_lost,
        "happenings": happenings,
        "bytes_fetched": reader.bytes_fetched(),
        "total_duration": started.elapsed().as_secs_f64(),
    });
    let _ = events.send(Event::Summary { verb: "check".to_owned(), summary }).await;
    let code = match () {
        () if !lost.is_empty() || unread > 0 => ExitCode::Lost,
        () if damaged > 0 => ExitCode::Damage,
        () => ExitCode::Success,
    };
    Ok(Outcome { code })
}

/// Changes the note of which slots a stripe lacks.
fn note(vault: &Vault, no: StripeNo, change: impl FnOnce(&mut BTreeSet<u8>)) -> Result<(), CatalogueError> {
    let before: BTreeSet<u8> = vault.catalogue.shortfall(no)?.into_iter().collect();
    let mut now = before.clone();
    change(&mut now);
    if now == before { Ok(()) } else { vault.catalogue.set_shortfall(no, &now.into_iter().collect::<Vec<_>>()) }
}

/// Fetches every slot of a stripe: those that are not there or not right. Fewer than it takes is a loss.
async fn read_all(reader: &Reader, no: StripeNo, wrong: &AtomicU64) -> (StripeNo, Result<BTreeSet<u8>, ReadError>) {
    let read = async {
        let source = reader.source(no)?;
        let all = source.row.present().count();
        let before = reader.wrong_shards();
        let shards = reader.fetch_some(&source, all, Priority::Low).await;
        wrong.fetch_add(reader.wrong_shards().saturating_sub(before), Ordering::Relaxed);
        let good = shards.iter().flatten().count();
        let needed = usize::from(source.row.used);
        if good < needed {
            return Err(ReadError::Lost { no: no.0, good, needed });
        }
        let bad = source.row.present().filter(|(slot, _)| shards.get(slot.index()).is_none_or(Option::is_none));
        Ok(bad.map(|(slot, _)| slot.as_u8()).collect())
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

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Subset, ExitCode> {
        let args = CheckArgs { read_data: false, read_data_subset: Some(text.to_owned()) };
        Subset::parse(&args).map_err(|f| f.code)
    }

    fn chosen(text: &str, stripes: u64, salt: u64) -> Vec<u64> {
        let all = (0..stripes).map(|n| (StripeNo(n), 5 << 20)).collect();
        parse(text).expect("valid").choose(all, salt).into_iter().map(|no| no.0).collect()
    }

    #[test]
    fn a_subset_is_as_large_as_it_says_and_never_nothing() {
        assert_eq!(chosen("10%", 100, 1).len(), 10);
        assert_eq!(chosen("10%", 3, 1).len(), 1);
        assert_eq!(chosen("0.001%", 100, 1).len(), 1);
        assert_eq!(chosen("100%", 7, 1), [0, 1, 2, 3, 4, 5, 6]);
        assert_eq!(chosen("1B", 100, 1).len(), 1);
        assert_eq!(chosen("11MiB", 100, 1).len(), 3);
        assert!(chosen("10%", 0, 1).is_empty());
        assert_ne!(chosen("10%", 100, 1), chosen("10%", 100, 2), "another hour reads others");
    }

    #[test]
    fn parts_together_are_everything() {
        let mut all: Vec<u64> = ["1/3", "2/3", "3/3"].iter().flat_map(|t| chosen(t, 10, 1)).collect();
        all.sort_unstable();
        assert_eq!(all, (0..10).collect::<Vec<_>>());
    }

    #[test]
    fn what_would_read_nothing_or_means_nothing_is_refused() {
        for text in ["0%", "-1%", "101%", "NaN%", "inf%", "0/3", "4/3", "1/0", "", "abc", "0B", "%"] {
            assert_eq!(parse(text), Err(ExitCode::Usage), "{text}");
        }
    }
}
