//! What a run of months did.

/// What a run did.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MonthsReport {
    /// Hash of the event log.
    pub trace: String,
    /// Its lines.
    pub events: u64,
    /// Peers that left for good.
    pub departed: u32,
    /// Holders among them, a slot each.
    pub holders_lost: u32,
    /// Orders that were certified.
    pub orders: u32,
    /// ... of these copies carried out,
    pub copies: u32,
    /// rebuilds carried out,
    pub rebuilds: u32,
    /// and failures told.
    pub failures: u32,
    /// Changes of stewards.
    pub changes: u32,
    /// Stewards that crashed and were started again from what they had written.
    pub crashes: u32,
    /// Shards that rotted and were healed.
    pub healed: u32,
    /// Proposals that bad stewards made of their own,
    pub forged: u32,
    /// ... of these such as got their signatures.
    pub forged_orders: u32,
    /// Departures of holders that were said a day ahead, ...
    pub polite: u32,
    /// ... and those of them after which every steward said that others have it all.
    pub polite_safe: u32,
    /// Own losses that a steward noted.
    pub own_losses: u32,
    /// Findings of auditors.
    pub audits: u32,
    /// Slots that cheats dropped, ...
    pub dropped: u32,
    /// ... those of them that have all their copies again in the end, ...
    pub remade: u32,
    /// ... those for which nobody else of their colour is there, where that may be, ...
    pub nobody: u32,
    /// ... and cheats that are doubted in the end, each for a slot.
    pub found_out: u32,
    /// Tokens that holders were asked with, ...
    pub questions: u32,
    /// ... times that an honest one was away for days meanwhile, ...
    pub rests: u32,
    /// ... slots of cheats that a quorum doubts in the end, ...
    pub by_quorum: u32,
    /// ... and those of them for which stewards told that there is nobody.
    pub nowhere: u32,
    /// Shards ordered for newcomers, ...
    pub to_newcomers: u32,
    /// ... orders that went over what one may be given of a group in a day, though the group was in no danger, ...
    pub over_quota: u32,
    /// ... and when it was.
    pub over_quota_urgent: u32,
    /// Most orders certified within a day, in a group.
    pub most_a_day: u32,
    /// Orders certified while the network was cut.
    pub orders_while_cut: u32,
    /// Orders given while the proposer's group was an emergency,
    pub urgent: u32,
    /// and shards that these moved, a rebuild as many as it has helpers.
    pub urgent_shards: u64,
    /// Orders given while many had fallen silent at once, ...
    pub frozen: u32,
    /// ... and those of them for groups that were no emergency.
    pub frozen_not_urgent: u32,
    /// Stripes that are lost in the end; none, unless the stewards sleep.
    pub lost: u32,
    /// Times that a bad steward said that it alone was left of its committee.
    pub usurped: u32,
    /// Groups that lost more than half of their stewards before these could be replaced.
    pub stuck: u32,
    /// Those of them that somebody watches in the end, and that can order nothing still.
    pub stuck_in_the_end: u32,
    /// Groups that nobody watches in the end: the stewards' colour ran empty.
    pub unwatched: u32,
    /// Slots below target in the end.
    pub below_target: u32,
    /// Longest that a slot had no live holder while somebody of its colour was there, in hours.
    pub longest_gap_hours: u64,
}
