//! Which key a confirm says is taken, and by whom, in the kernel's order.
//!
//! `__nf_conntrack_confirm` looks for the original tuple first, then for the reply tuple, each
//! among both directions of all connections; the first one found is what
//! `nf_ct_resolve_clash` gets. The second stage (`nf_ct_resolve_clash_harder`) looks for the reply tuple alone.
//!
//! Here every way in which a connection's two keys can be taken (by nobody, by an owner's original or
//! reply key; by one owner or by two) is tried on each table.

mod common;

use clashtrack_engine::table::hash::HashKey;
use clashtrack_engine::table::key::{FlowKey, KeyV4};
use clashtrack_engine::table::lockfree::LockfreeTable;
use clashtrack_engine::table::mutex::MutexTable;
use clashtrack_engine::table::slab::{Entry, EntryId};
use clashtrack_engine::table::{
    Clash, ClashPolicy, ClashStep, Confirmed, FlowTable, Refusal, TableConfig,
};
use clashtrack_engine::tuple::Direction::{self, Original, Reply};
use common::{NOW, key};

const LONG: u64 = 1 << 40;

/// Answers always the same, and remembers what it was asked.
struct Always(ClashStep, Vec<Clash>);

impl ClashPolicy<KeyV4> for Always {
    fn decide(&mut self, clash: &Clash, loser: &Entry<KeyV4>, winner: &Entry<KeyV4>) -> ClashStep {
        assert_eq!(loser.key(clash.key), winner.key(clash.winner_key));
        self.1.push(*clash);
        self.0
    }
}

/// The connection that is confirmed: its keys are one canonical key's two orientations, or two keys.
/// In both canonical orders: the lock-free table installs the smaller one first.
fn losers() -> [(KeyV4, KeyV4); 4] {
    let plain = key(1, 2);
    let answer = plain.inverse().expect("UDP has answers");
    [
        (plain, answer),
        (answer, plain),
        (key(1, 2), key(30, 40)),
        (key(30, 40), key(1, 2)),
    ]
}

/// Who owns a key of the loser's: by which of his own.
const OWNERS: [Option<Direction>; 3] = [None, Some(Original), Some(Reply)];

fn confirm<T: FlowTable<KeyV4>>(
    table: &T,
    worker: &mut T::Worker,
    keys: (KeyV4, KeyV4),
    timeout: u64,
    policy: &mut Always,
) -> (EntryId, Confirmed) {
    let id = table.allocate(worker).expect("there is room");
    table.slab().entry(id).set_keys(keys.0, keys.1);
    table.slab().entry(id).set_deadline(timeout);
    let confirmed = table.confirm(worker, id, NOW, u32::MAX, policy);
    match confirmed {
        Confirmed::Inserted | Confirmed::ReplyOnly(_) => {
            table.release(worker, id);
        }
        Confirmed::Merged(clash) => {
            table.release(worker, clash.winner);
        }
        Confirmed::Refused(_) => {}
    }
    (id, confirmed)
}

/// Somebody with `taken` as his key of direction `by`, and another key that nobody else has.
fn owner_of<T: FlowTable<KeyV4>>(
    table: &T,
    worker: &mut T::Worker,
    taken: KeyV4,
    by: Direction,
    other: u16,
) -> EntryId {
    let other = key(other, 999);
    let keys = match by {
        Original => (taken, other),
        Reply => (other, taken),
    };
    let nobody = &mut Always(ClashStep::Drop, Vec::new());
    let (id, confirmed) = confirm(table, worker, keys, LONG, nobody);
    assert_eq!(confirmed, Confirmed::Inserted);
    id
}

/// One table, one loser, the owners of its two keys: what the kernel would say, and what the table does.
fn one_case<T: FlowTable<KeyV4>>(
    loser: (KeyV4, KeyV4),
    original_by: Option<Direction>,
    reply_by: Option<Direction>,
) {
    for step in [ClashStep::Drop, ClashStep::Merge, ClashStep::ReplyOnly] {
        let table = T::new(&TableConfig::new(1_000, HashKey(1, 2)));
        let worker = &mut table.worker();
        let first = original_by.map(|by| (owner_of(&table, worker, loser.0, by, 501), by));
        let second = reply_by.map(|by| (owner_of(&table, worker, loser.1, by, 502), by));
        let clash = |key, owner: Option<(EntryId, Direction)>, at_reply_only| {
            owner.map(|(winner, winner_key)| Clash {
                winner,
                key,
                winner_key,
                at_reply_only,
            })
        };
        let found = clash(Original, first, false).or(clash(Reply, second, false));
        let again = clash(Reply, second, true);
        let expected = match (found, step) {
            (None, _) => Confirmed::Inserted,
            (Some(found), ClashStep::Drop) => Confirmed::Refused(Refusal::Clash(found)),
            (Some(found), ClashStep::Merge) => Confirmed::Merged(found),
            (Some(found), ClashStep::ReplyOnly) => match again {
                None => Confirmed::ReplyOnly(found),
                Some(again) => Confirmed::Refused(Refusal::Clash(again)),
            },
        };
        let asked: Vec<Clash> = match step {
            ClashStep::ReplyOnly => found.into_iter().chain(found.and(again)).collect(),
            _ => found.into_iter().collect(),
        };
        let mut policy = Always(step, Vec::new());
        let (_, confirmed) = confirm(&table, worker, loser, LONG, &mut policy);
        let case = (T::NAME, loser, original_by, reply_by, step);
        assert_eq!(confirmed, expected, "{case:?}");
        assert_eq!(policy.1, asked, "{case:?}");
        table.leave(worker);
    }
}

fn every_case<T: FlowTable<KeyV4>>() {
    for loser in losers() {
        for original_by in OWNERS {
            for reply_by in OWNERS {
                one_case::<T>(loser, original_by, reply_by);
            }
        }
    }
}

/// One connection owns both keys, the wrong way round: its reply key is what the loser asks for first.
fn a_crossing_owner<T: FlowTable<KeyV4>>() {
    for loser in losers() {
        let table = T::new(&TableConfig::new(1_000, HashKey(1, 2)));
        let worker = &mut table.worker();
        let mut policy = Always(ClashStep::Drop, Vec::new());
        let (winner, _) = confirm(&table, worker, (loser.1, loser.0), LONG, &mut policy);
        let (_, confirmed) = confirm(&table, worker, loser, LONG, &mut policy);
        let expected = Clash {
            winner,
            key: Original,
            winner_key: Reply,
            at_reply_only: false,
        };
        assert_eq!(
            confirmed,
            Confirmed::Refused(Refusal::Clash(expected)),
            "{}: {loser:?}",
            T::NAME
        );
        table.leave(worker);
    }
}

#[test]
fn the_lock_free_table_reports_the_clash_that_the_kernel_would() {
    every_case::<LockfreeTable<KeyV4>>();
    a_crossing_owner::<LockfreeTable<KeyV4>>();
}

#[test]
fn the_reference_table_reports_the_clash_that_the_kernel_would() {
    every_case::<MutexTable<KeyV4>>();
    a_crossing_owner::<MutexTable<KeyV4>>();
}
