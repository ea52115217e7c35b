//! What holders signed that they took of a stripe. It is evidence and nothing is decided on it here, so a row that does not read is as
//! good as none.

use cairn_proto::{index::StripeNo, message::Word};

use super::{
    Catalogue, Result,
    guard::Change,
    layout::{RECEIPT, receipt_rows, receipts_in, stripe_key},
};

/// Receipts of a stripe at most: of four holders of each of 32 slots. Beyond, the oldest go.
const RECEIPTS_MAX: usize = 128;

impl Catalogue {
    /// Signed receipts of a stripe, each with its slot, encoded.
    ///
    /// # Errors
    /// Damage or the disk.
    pub fn receipts(&self, no: StripeNo) -> Result<Vec<(u8, Vec<u8>)>> {
        let mut found = Vec::new();
        for key in self.tree.scan_prefix(stripe_key(RECEIPT, no)).keys() {
            found.extend(self.get(&key?)?.iter().flat_map(|row| receipts_in(row)));
        }
        Ok(found)
    }

    /// Adds the receipt of a holder that took a shard of the stripe later; the one that the same holder gave for it before goes.
    ///
    /// # Errors
    /// Damage or the disk.
    pub fn add_receipt(&self, no: StripeNo, slot: u8, signed: Vec<u8>) -> Result<()> {
        let holder = |signed: &[u8]| Word::decode(signed).ok().map(|word| word.receipt.holder);
        let new = holder(&signed);
        let mut receipts = self.receipts(no)?;
        receipts.retain(|(at, old)| *at != slot || holder(old) != new);
        receipts.push((slot, signed));
        let over = receipts.len().saturating_sub(RECEIPTS_MAX);
        receipts.drain(..over);
        let mut batch = Change::default();
        for key in self.tree.scan_prefix(stripe_key(RECEIPT, no)).keys() {
            batch.remove(key?.to_vec());
        }
        for (key, value) in receipt_rows(no, &receipts) {
            batch.put(&key, value);
        }
        self.apply(batch)
    }
}
