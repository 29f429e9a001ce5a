//! Confirms and removals in batches against the same ones alone.

use super::super::{LockfreeTable, LockfreeWorker, Wide};
use super::{Always, key, table};
use crate::random::WorkerRng;
use crate::status::Status;
use crate::table::key::{FlowKey, KeyV4};
use crate::table::slab::EntryId;
use crate::table::{ClashStep, Confirmed, FlowTable, Refusal};

/// More than one group of those that are asked for together.
const MANY: usize = 70;

/// Keys of which some are equal, some their own clash, some plain.
fn keys(n: u8) -> (KeyV4, KeyV4) {
    match n % 10 {
        3 => (key(n - 1, 200, 0), key(201, n, 0)),
        5 => (key(n, 210, 0), key(n, 210, 0)),
        7 => (key(n, 220, 0), key(n, 220, 0).inverse().unwrap()),
        _ => (key(n, 200, 0), key(200, n, 0)),
    }
}

fn allocate(table: &LockfreeTable<KeyV4, Wide>, worker: &mut LockfreeWorker) -> Vec<EntryId> {
    (0..MANY as u8)
        .map(|n| {
            let id = table.allocate(worker).unwrap();
            let entry = table.slab().entry(id);
            let (original, reply) = keys(n);
            entry.set_keys(original, reply);
            entry.set_deadline(1000);
            if n % 10 == 9 {
                entry.put_status(Status::DYING);
            }
            id
        })
        .collect()
}

fn release(
    table: &LockfreeTable<KeyV4, Wide>,
    worker: &mut LockfreeWorker,
    id: EntryId,
    outcome: Confirmed,
) {
    match outcome {
        Confirmed::Inserted | Confirmed::ReplyOnly(_) => table.release(worker, id),
        Confirmed::Merged(clash) => table.release(worker, clash.winner),
        Confirmed::Refused(_) => false,
    };
}

#[test]
fn a_batch_comes_out_as_its_connections_one_by_one() {
    for step in [ClashStep::Merge, ClashStep::ReplyOnly, ClashStep::Drop] {
        // Long chains, and few overflow buckets: some inserts find no room.
        let together = table::<Wide>(6, 200, 10);
        let alone = table::<Wide>(6, 200, 10);
        let (mut one, mut other) = (together.worker(), alone.worker());
        let (mut asked, mut asked_alone) = (Always::new(step), Always::new(step));
        let ids = allocate(&together, &mut one);
        assert_eq!(ids, allocate(&alone, &mut other));
        let (mut rng, mut same_rng) = (WorkerRng::new(1, 0), WorkerRng::new(1, 0));
        let mut outcomes = [Confirmed::Refused(Refusal::Full); MANY];
        together.begin(&mut one);
        together.confirm_batch(&mut one, &ids, 5, &mut rng, &mut asked, &mut outcomes);
        for (&id, &outcome) in ids.iter().zip(&outcomes) {
            release(&together, &mut one, id, outcome);
        }
        together.end(&mut one);
        alone.begin(&mut other);
        for (&id, &outcome) in ids.iter().zip(&outcomes) {
            let random = same_rng.next_u32();
            let expected = alone.confirm(&mut other, id, 5, random, &mut asked_alone);
            assert_eq!(outcome, expected, "{id:?}");
            release(&alone, &mut other, id, outcome);
        }
        alone.end(&mut other);
        assert_eq!(asked.asked, asked_alone.asked);
        let is = |wanted: fn(&Confirmed) -> bool| outcomes.iter().any(wanted);
        assert!(is(|o| *o == Confirmed::Inserted));
        assert!(is(|o| *o == Confirmed::Refused(Refusal::Dying)));
        assert!(is(|o| matches!(o, Confirmed::Refused(Refusal::Clash(_)))));
        together.assert_quiescent(&[&one], &[]);

        // Each once, and one of them twice in the same batch.
        let mut twice = ids.clone();
        twice[MANY - 1] = ids[0];
        let mut removed = [false; MANY];
        together.begin(&mut one);
        together.remove_batch(&mut one, &twice, &mut removed);
        for (&id, &removed) in twice.iter().zip(&removed) {
            assert_eq!(alone.remove(&mut other, id), removed, "{id:?}");
            if removed {
                assert!(together.release(&mut one, id) && alone.release(&mut other, id));
            }
        }
        together.end(&mut one);
        assert!(removed[0] && !removed[MANY - 1]);
        together.assert_quiescent(&[&one], &[]);
        alone.assert_quiescent(&[&other], &[]);
    }
}
